"""The content type of real files of many kinds, under their own names and under others'."""

import gzip
import io
import mimetypes
import zipfile
from fractions import Fraction

import av
import pytest
from hypothesis import given, settings, strategies as st

from syncd.files_api import content_type

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
    ("ismv", "ismv", "mpeg4", "video/mp4"),
    ("rm", "rm", "rv10", "video/vnd.rn-realvideo"),
    ("h264", "h264", "libx264", "video/h264"),
    ("265", "hevc", "libx265", "video/h265"),
    ("ivf", "ivf", "libvpx", "video/x-ivf"),
    ("y4m", "yuv4mpegpipe", "wrapped_avframe", "video/x-yuv4mpeg"),
    ("nut", "nut", "mpeg4", "video/x-nut"),
    ("wtv", "wtv", "mpeg2video", "video/x-ms-wtv"),
    ("gxf", "gxf", "mpeg2video", "video/x-gxf"),
    ("dv", "dv", "dvvideo", "video/dv"),
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
    ("m4b", "ipod", "aac", "audio/mp4"),
    ("m4r", "mp4", "aac", "audio/mp4"),
    ("mp4", "mp4", "aac", "audio/mp4"),
    ("mov", "mov", "aac", "audio/mp4"),
    ("3gp", "3gp", "aac", "audio/mp4"),
    ("mka", "matroska", "aac", "audio/x-matroska"),
    ("mkv", "matroska", "aac", "audio/x-matroska"),
    ("weba", "webm", "libopus", "audio/webm"),
    ("oga", "ogg", "libopus", "audio/ogg"),
    ("wma", "asf", "wmav2", "audio/x-ms-wma"),
    ("ra", "rm", "ac3", "audio/x-pn-realaudio"),
]
#: How text is written in `.ts` files all over the world.
ENCODINGS = {
    "latin-1": "const größe = 'für';",
    "cp1252": "// “smart”",
    "cp1251": "// Привет",
    "gb18030": "// 中文注释",
    "shift-jis": "// 日本語",
    "euc-kr": "// 한국어",
    "utf-8-sig": "export {};",
    "utf-16": "// 中文",
    "utf-16-le": "export {};",
    "utf-32": "// 中文",
    "utf-32-be": "export {};",
}
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


def video(container, codec, frames=3, **options):
    file = io.BytesIO()
    size = {"dv": (720, 576), "gxf": (720, 576)}.get(container, (128, 96))
    with av.open(
        file,
        "w",
        format="mpegts" if container == "m2ts" else container,
        options=options | ({"mpegts_m2ts_mode": "1"} if container == "m2ts" else {}),
    ) as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame(*size, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes([128]) * plane.buffer_size)
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
        stream = out.add_stream(codec, rate=48000)
        stream.bit_rate = 128_000
        form = stream.codec_context.format.name
        samples = stream.codec_context.frame_size or 1024
        frame = av.AudioFrame(format=form, layout="stereo", samples=samples)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.sample_rate, frame.pts = 48000, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


def archive():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr(zipfile.ZipInfo("[Content_Types].xml"), "<Types/>")
    return file.getvalue()


def kind(name, content):
    return content_type(name.encode(), lambda length, at: content[at : at + length])


@pytest.mark.row(92)
@pytest.mark.parametrize(("extension", "container", "codec", "right"), VIDEOS)
def test_a_video_is_sent_as_one_by_its_own_name_and_by_any_other(
    extension, container, codec, right
):
    content = video(container, codec)
    assert kind(f"a/clip.{extension.upper()}", content) == right
    for lying in ("", ".txt", ".dat", ".jpg", ".json", ".zip", ".m4a", ".ogg", ".wma", ".ts"):
        assert kind(f"clip{lying}", content).startswith("video/"), lying


@pytest.mark.parametrize("brand", ["isom", "iso4", "iso6", "avc1", "dash", "mp42"])
def test_a_video_is_known_by_any_brand_and_length_of_its_first_box(brand):
    content = video("mp4", "mpeg4", brand=brand)
    assert kind("clip", content) == "video/mp4"
    end = int.from_bytes(content[:4])
    assert kind("clip", (end + 8).to_bytes(4) + content[4:end] + b"iso9" * 2 + content[end:])


@pytest.mark.parametrize("container", ["mp4", "mov"])
def test_the_tracks_tell_wherever_the_index_stands(container):
    # The index follows the frames, which are more than a first look shows.
    content = video(container, "mpeg4")
    at = content.index(b"mdat") - 4
    box = b"\0\0\0\1free" + (200_016).to_bytes(8) + bytes(200_000)
    assert kind("clip.m4a", content[:at] + box + content[at:]).startswith("video/")
    content = sound(container, "aac")
    at = content.index(b"mdat") - 4
    assert kind("clip.mp4", content[:at] + box + content[at:]) == "audio/mp4"


@pytest.mark.parametrize("extension", ["mov", ""])
def test_quicktime_before_it_named_its_brand_is_video(extension):
    content = video("mov", "mpeg4")
    assert kind(f"clip.{extension}", content[int.from_bytes(content[:4]) :]) == "video/quicktime"


@pytest.mark.parametrize(
    ("name", "container", "right"),
    [("cut.ts", "mpegts", "video/mp2t"), ("cut.mpg", "mpeg", "video/mpeg")],
)
def test_a_recording_that_begins_in_mid_packet_is_video_by_its_name(name, container, right):
    content = video(container, "mpeg2video", frames=12)
    assert kind(name, b"\xfe" * 77 + content) == right
    assert kind("cut.bin", b"\xfe" * 77 + content) == "application/octet-stream"


def test_frames_of_motion_jpeg_are_video_by_their_name():
    assert kind("a.mjpeg", image("mjpeg", "yuvj420p")) == "video/x-motion-jpeg"


@pytest.mark.row(92)
@pytest.mark.parametrize(("extension", "codec", "pixels", "right"), IMAGES)
def test_an_image_is_known_by_its_name_or_its_first_bytes(extension, codec, pixels, right):
    content = image(codec, pixels)
    assert kind(f"a.{extension}", content) == right
    if extension != "bmp":
        assert kind("a", content) == kind("a.mp4", content) == right


@pytest.mark.row(92)
@pytest.mark.parametrize(("extension", "container", "codec", "right"), SOUNDS)
def test_sound_is_no_video(extension, container, codec, right):
    content = sound(container, codec)
    assert kind(f"a.{extension}", content) == right
    for lying in ("a", "a.mp4", "a.mkv", "a.aac"):
        assert not kind(lying, content).startswith("video/"), lying


@pytest.mark.row(92)
@pytest.mark.parametrize(("extension", "right"), TEXTS)
def test_a_text_is_what_its_name_says(extension, right, monkeypatch):
    monkeypatch.setattr(mimetypes, "guess_type", lambda *_: ("text/evil", None))
    assert kind(f"a.{extension}", TEXT) == right
    # Cut within a character, and empty.
    assert kind(f"a.{extension}", TEXT[: TEXT.index(b"\xc3") + 1]) == right
    assert kind(f"a.{extension}", b"") == right


@pytest.mark.row(92)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_typescript_is_text_in_any_encoding(encoding):
    content = ENCODINGS[encoding].encode(encoding) * 20
    for name in ("a.ts", "a.mts"):
        assert kind(name, content) == "text/x-typescript"


@pytest.mark.row(92)
@pytest.mark.parametrize(
    "extension", ["mp4", "mkv", "mov", "vob", "mpg", "m2ts", "rm", "ts", "h264"]
)
def test_a_name_alone_makes_no_video(extension):
    text = "text/x-typescript" if extension == "ts" else "text/plain"
    assert kind(f"a.{extension}", TEXT) == text
    assert kind(f"a.{extension}", b"const nul = '\0';") == text
    for content in (b"\0", bytes(range(256)) * 9, bytes(70_000), archive()):
        assert kind(f"a.{extension}", content) == "application/octet-stream"
    assert kind(f"a.{extension}", b"") in (text, "application/octet-stream")


@pytest.mark.parametrize(
    "content",
    [
        *[b"RIFF\x30\1\0\0" + form + bytes(300) for form in (b"ACON", b"sfbk", b"RMID", b"DLS ")],
        *[b"\0\0\1" + code + bytes(range(250)) for code in (b"\0", b"\xb3", b"\xba", b"\xb0")],
        b"\0\0\0\1" + bytes(range(250)),
        b"\0\0\0\x18ftypcrx \0\0\0\1crx isom\0\0\1\0moov" + bytes(range(250)),
    ],
)
def test_a_few_weak_bytes_overrule_no_name(content):
    for name in ("weights.bin", "a.onnx", "a.ts", "a"):
        found = kind(name, content)
        assert found == ("image/x-canon-cr3" if b"crx " in content else "application/octet-stream")


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
@pytest.mark.parametrize("path", [b"dir.mp4/a", b"mp4", b"a.jp\xe9g", b"a.txt\r\nx: y", b"a.mp4"])
def test_a_file_is_a_stream_of_octets_where_neither_name_nor_content_tells(path):
    assert content_type(path, lambda *_: b"") == "application/octet-stream"


def test_the_name_tells_where_the_content_is_not_read():
    assert content_type(b"a.TS") == "video/mp2t"


@settings(max_examples=50)
@given(st.binary(max_size=40), st.binary(max_size=300))
def test_every_content_type_is_fit_for_a_header(path, content):
    found = content_type(path, lambda length, at: content[at : at + length])
    assert found.isascii()
    assert found.isprintable()
