"""The content type that a file is sent with.

A service processes only files that are sent as videos. The content decides if it shows what it is,
and else the name.
"""

import codecs
import re

from syncd.files_api.signatures import Read, kinds_of

#: Bytes of a file that are searched for a signature.
_HEAD_BYTES = 16_384
_OCTET_STREAM = "application/octet-stream"
#: Content types and their extensions, whatever the host's own tables say. A compressed file is what
#: it is compressed with, not what is inside.
_EXTENSIONS = """
image/jpeg jpg jpeg jpe jfif
image/tiff tif tiff
image/png png
image/gif gif
image/webp webp
image/bmp bmp
image/svg+xml svg
image/avif avif
image/heic heic
image/heif heif
image/vnd.microsoft.icon ico
video/mp4 mp4 m4v mp4v f4v ismv
video/mpeg mpg mpeg mpe vob m1v m2v mpv m2p
video/mp2t ts mts m2ts m2t
video/quicktime mov qt
video/x-matroska mkv mk3d
video/x-msvideo avi divx
video/ogg ogv ogm
video/3gpp 3gp 3gpp
video/3gpp2 3g2 3gpp2
video/vnd.rn-realvideo rm rmvb
video/webm webm
video/x-ms-wmv wmv
video/x-ms-asf asf
video/mxf mxf
video/x-flv flv
video/x-motion-jpeg mjpeg mjpg
video/h264 h264 264 avc
video/h265 h265 265 hevc
video/dv dv
video/x-ivf ivf
video/x-yuv4mpeg y4m
video/x-nut nut
video/x-ms-wtv wtv
video/x-gxf gxf
video/x-amv amv
audio/mpeg mp3
audio/mp4 m4a m4b m4r
audio/aac aac
audio/wav wav
audio/flac flac
audio/ogg ogg opus oga
audio/x-matroska mka
audio/webm weba
audio/x-ms-wma wma
audio/x-pn-realaudio ra
text/plain txt text log ini conf srt c h pl ksh bat
text/x-c++ cc cpp cxx hpp hh
text/x-python py pyi
text/x-sh sh bash zsh
text/javascript js mjs cjs
text/x-typescript tsx cts
text/markdown md markdown
text/html htm html
text/csv csv
text/tab-separated-values tsv
text/vtt vtt
text/x-vcard vcf
text/calendar ics
text/x-java java
text/x-go go
text/x-rust rs
text/css css
application/yaml yaml yml
application/toml toml
application/sql sql
application/xml xml
application/json json
application/jsonl jsonl
application/pdf pdf
application/rtf rtf
application/epub+zip epub
application/msword doc
application/vnd.ms-excel xls
application/vnd.ms-powerpoint ppt
application/vnd.openxmlformats-officedocument.wordprocessingml.document docx
application/vnd.openxmlformats-officedocument.spreadsheetml.sheet xlsx
application/vnd.openxmlformats-officedocument.presentationml.presentation pptx
application/vnd.oasis.opendocument.text odt
application/vnd.oasis.opendocument.spreadsheet ods
application/vnd.oasis.opendocument.presentation odp
application/gzip gz tgz
application/x-bzip2 bz2 tbz2
application/x-xz xz txz
application/zstd zst
application/zip zip
application/x-tar tar
application/x-7z-compressed 7z
application/vnd.rar rar
application/vnd.adobe.flash.movie swf
"""
_CONTENT_TYPES = {
    extension: kind
    for kind, *extensions in map(str.split, _EXTENSIONS.strip().splitlines())
    for extension in extensions
}
#: The types of texts whose extension stands for a video, too.
_TEXT_TYPES = {"ts": "text/x-typescript", "mts": "text/x-typescript"}
#: Bytes that text seldom holds, whatever its encoding.
_CONTROL = re.compile(rb"[\x01-\x06\x0e-\x1a\x1c-\x1f\x7f]")


def content_type(path: bytes, read: Read | None = None) -> str:
    """Return the content type of a file by its content and name; by its name without `read`."""
    _, _, name = path.rpartition(b"/")
    extension = name.rpartition(b".")[2].decode("ascii", "replace").lower() if b"." in name else ""
    named = _CONTENT_TYPES.get(extension, _OCTET_STREAM)
    if read is None:
        return named
    head = read(_HEAD_BYTES, 0)
    kinds = [] if _is_utf8(head) else kinds_of(named, head, read)
    if kinds:
        return named if named in kinds else kinds[0]
    text_type = _TEXT_TYPES.get(extension)
    if text_type is None:
        # Without a signature, too: a broken video is one, and its user is to hear that it failed.
        return named
    return text_type if not head or _is_text(head) else _OCTET_STREAM


def image_type(head: bytes) -> str | None:
    """Return the content type of an image by how it begins; None for anything else."""
    kinds = kinds_of("", head, lambda _count, _at: b"")
    return kinds[0] if kinds and kinds[0].startswith("image/") else None


def _is_text(head: bytes) -> bool:
    """Return whether a file looks like text in any encoding."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or _is_utf8(head):
        return True
    # UTF-16 and UTF-32 are full of NULs.
    shown = head.replace(b"\0", b"")
    return shown != b"" and not _CONTROL.search(shown)


def _is_utf8(head: bytes) -> bool:
    try:
        # A character may be cut at the end.
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head
