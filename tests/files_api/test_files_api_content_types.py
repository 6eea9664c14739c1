"""The content type of real files of many kinds, under their own names and under others'."""

import gzip
import io
import mimetypes
import zipfile
from fractions import Fraction

import av
import pytest
from hypothesis import given, settings, strategies as st

from syncd.files_api import HEAD_BYTES, content_type

#: Extension, container and codec as FFmpeg calls them, and the type that is right.
VIDEOS = [
    ("mp4", "mp4", "mpeg4", "video/mp4"),
    ("m4v", "ipod", "mpeg4", "video/mp4"),
    ("f4v", "mp4", "mpeg4", "video/mp4"),
    ("mov", "mov", "mpeg4", "video/quicktime"),
    ("mkv", "matroska", "mpeg4", "video/x-matroska"),
    ("webm", "webm", "libvpx", "video/webm"),
    ("avi", "avi", "mpeg4", "video/x-msvideo"),
    ("divx", "avi", "mpeg4", "video/x-msvideo"),
    ("ts", "mpegts", "mpeg2video", "video/mp2t"),
    ("mts", "mpegts", "mpeg2video", "video/mp2t"),
    ("m2t", "mpegts", "mpeg2video", "video/mp2t"),
    ("m2ts", "m2ts", "mpeg2video", "video/mp2t"),
    ("mpg", "mpeg", "mpeg1video", "video/mpeg"),
    ("vob", "vob", "mpeg2video", "video/mpeg"),
    ("m2v", "mpeg2video", "mpeg2video", "video/mpeg"),
    ("wmv", "asf", "wmv2", "video/x-ms-wmv"),
    ("asf", "asf", "msmpeg4", "video/x-ms-asf"),
    ("flv", "flv", "flv", "video/x-flv"),
    ("mxf", "mxf", "mpeg2video", "video/mxf"),
    ("ogv", "ogg", "libvpx", "video/ogg"),
    ("ogm", "ogg", "libvpx", "video/ogg"),
    ("3gp", "3gp", "h263", "video/3gpp"),
    ("3gpp", "3gp", "h263", "video/3gpp"),
    ("3g2", "3g2", "mpeg4", "video/3gpp2"),
]
IMAGES = [
    ("png", "png", "rgb24", "image/png"),
    ("jpg", "mjpeg", "yuvj420p", "image/jpeg"),
    ("bmp", "bmp", "bgr24", "image/bmp"),
    ("tiff", "tiff", "rgb24", "image/tiff"),
    ("gif", "gif", "rgb8", "image/gif"),
    ("webp", "libwebp", "yuv420p", "image/webp"),
]
SOUNDS = [
    ("wav", "wav", "pcm_s16le", "audio/wav"),
    ("mp3", "mp3", "libmp3lame", "audio/mpeg"),
    ("flac", "flac", "flac", "audio/flac"),
    ("ogg", "ogg", "flac", "audio/ogg"),
    ("m4a", "ipod", "aac", "audio/mp4"),
]
TEXT = "import { x } from './y';\nexport const größe: number = 1;\n".encode()
TEXTS = [
    *[(name, "text/plain") for name in ("txt", "log", "srt", "c", "h", "pl")],
    *[("ts", "text/x-typescript"), ("mts", "text/x-typescript"), ("tsx", "text/x-typescript")],
    *[
        ("py", "text/x-python"),
        ("vcf", "text/x-vcard"),
        ("csv", "text/csv"),
        ("md", "text/markdown"),
    ],
    *[("html", "text/html"), ("css", "text/css"), ("js", "text/javascript"), ("vtt", "text/vtt")],
    *[("json", "application/json"), ("jsonl", "application/jsonl"), ("xml", "application/xml")],
    *[("yaml", "application/yaml"), ("svg", "image/svg+xml")],
]


def video(container, codec):
    file = io.BytesIO()
    size = (128, 96)
    with av.open(
        file,
        "w",
        format="mpegts" if container == "m2ts" else container,
        options={"mpegts_m2ts_mode": "1"} if container == "m2ts" else {},
    ) as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(3):
            frame = av.VideoFrame(*size, "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


def image(codec, pixels):
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = 64, 48, pixels
    context.time_base = Fraction(1, 25)
    packets = [*context.encode(av.VideoFrame(64, 48, pixels)), *context.encode()]
    encoded = b"".join(map(bytes, packets))
    if codec != "gif":
        return encoded
    return b"GIF89a" + encoded.removeprefix(b"GIF89a")


def sound(container, codec):
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=44100)
        form = stream.codec_context.format.name
        frame = av.AudioFrame(format=form, layout="stereo", samples=1024)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.sample_rate, frame.pts = 44100, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


def archive():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr(zipfile.ZipInfo("[Content_Types].xml"), "<Types/>")
    return file.getvalue()


def kind(name, content):
    return content_type(name.encode(), content[:HEAD_BYTES])


@pytest.mark.row(92)
@pytest.mark.parametrize(("extension", "container", "codec", "right"), VIDEOS)
def test_a_video_is_sent_as_one_by_its_own_name_and_by_any_other(
    extension, container, codec, right
):
    content = video(container, codec)
    assert kind(f"a/clip.{extension.upper()}", content) == right
    for lying in ("clip", "clip.txt", "clip.dat", "clip.jpg", "clip.json", "clip.zip"):
        assert kind(lying, content).startswith("video/"), lying


@pytest.mark.row(92)
@pytest.mark.parametrize(("extension", "codec", "pixels", "right"), IMAGES)
def test_an_image_is_known_by_its_name_or_its_first_bytes(extension, codec, pixels, right):
    content = image(codec, pixels)
    assert kind(f"a.{extension}", content) == right
    if extension != "bmp":
        assert kind("a", content) == kind("a.mp4", content) == right


@pytest.mark.parametrize(("extension", "container", "codec", "right"), SOUNDS)
def test_sound_is_no_video(extension, container, codec, right):
    assert kind(f"a.{extension}", sound(container, codec)) == right


@pytest.mark.row(92)
@pytest.mark.parametrize(("extension", "right"), TEXTS)
def test_a_text_is_what_its_name_says(extension, right, monkeypatch):
    monkeypatch.setattr(mimetypes, "guess_type", lambda *_: ("text/evil", None))
    assert kind(f"a.{extension}", TEXT) == right
    # Cut within a character, and empty.
    assert content_type(f"a.{extension}".encode(), TEXT[: TEXT.index(b"\xc3") + 1]) == right


@pytest.mark.parametrize(
    ("extension", "content", "right"),
    [
        ("pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "application/pdf"),
        ("gz", gzip.compress(TEXT, mtime=0), "application/gzip"),
        ("tar.gz", gzip.compress(TEXT, mtime=0), "application/gzip"),
        ("csv.gz", gzip.compress(TEXT, mtime=0), "application/gzip"),
        ("zip", archive(), "application/zip"),
        ("epub", archive(), "application/epub+zip"),
        (
            "docx",
            archive(),
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        ),
    ],
)
def test_a_document_or_archive_is_what_its_name_says(extension, content, right):
    assert kind(f"a.{extension}", content) == right


@pytest.mark.row(62)
@pytest.mark.parametrize("path", [b"dir.mp4/a", b"mp4", b"a.jp\xe9g", b"a.txt\r\nx: y", b"a.ts"])
def test_what_neither_name_nor_content_tells_is_a_stream_of_octets_or_the_names_own(path):
    assert content_type(path, b"") == (
        "video/mp2t" if path == b"a.ts" else "application/octet-stream"
    )


@settings(max_examples=50)
@given(st.binary(max_size=40), st.binary(max_size=300))
def test_every_content_type_is_fit_for_a_header(path, head):
    found = content_type(path, head)
    assert found.isascii()
    assert found.isprintable()
