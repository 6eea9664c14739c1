"""Which content type a file is sent with: by its name, and by its first bytes where those differ.

A service processes what is sent as a video, and nothing else: a video under any name goes as one.
"""

import codecs
import functools
import re

#: How many of a file's first bytes tell its type.
HEAD_BYTES = 4096

_OCTET_STREAM = "application/octet-stream"
#: The type that each extension stands for, whatever the host's own tables say.
CONTENT_TYPES = {
    **dict.fromkeys(["jpg", "jpeg", "jpe", "jfif"], "image/jpeg"),
    **dict.fromkeys(["tif", "tiff"], "image/tiff"),
    **dict.fromkeys(["mp4", "m4v", "mp4v", "m4s", "f4v"], "video/mp4"),
    **dict.fromkeys(["mpg", "mpeg", "mpe", "vob", "m1v", "m2v", "mpv", "m2p"], "video/mpeg"),
    **dict.fromkeys(["ts", "mts", "m2ts", "m2t"], "video/mp2t"),
    **dict.fromkeys(["mov", "qt"], "video/quicktime"),
    **dict.fromkeys(["mkv", "mk3d"], "video/x-matroska"),
    **dict.fromkeys(["avi", "divx"], "video/x-msvideo"),
    **dict.fromkeys(["ogv", "ogm"], "video/ogg"),
    **dict.fromkeys(["3gp", "3gpp"], "video/3gpp"),
    **dict.fromkeys(["3g2", "3gpp2"], "video/3gpp2"),
    **dict.fromkeys(["rm", "rmvb"], "video/vnd.rn-realvideo"),
    **dict.fromkeys(["txt", "text", "log", "ini", "conf", "srt"], "text/plain"),
    **dict.fromkeys(["c", "h", "pl", "ksh", "bat"], "text/plain"),
    **dict.fromkeys(["cc", "cpp", "cxx", "hpp", "hh"], "text/x-c++"),
    **dict.fromkeys(["py", "pyi"], "text/x-python"),
    **dict.fromkeys(["sh", "bash", "zsh"], "text/x-sh"),
    **dict.fromkeys(["js", "mjs", "cjs"], "text/javascript"),
    **dict.fromkeys(["tsx", "cts"], "text/x-typescript"),
    **dict.fromkeys(["md", "markdown"], "text/markdown"),
    **dict.fromkeys(["htm", "html"], "text/html"),
    **dict.fromkeys(["yaml", "yml"], "application/yaml"),
    "png": "image/png",
    "gif": "image/gif",
    "webp": "image/webp",
    "bmp": "image/bmp",
    "svg": "image/svg+xml",
    "avif": "image/avif",
    "heic": "image/heic",
    "heif": "image/heif",
    "ico": "image/vnd.microsoft.icon",
    "webm": "video/webm",
    "wmv": "video/x-ms-wmv",
    "asf": "video/x-ms-asf",
    "mxf": "video/mxf",
    "flv": "video/x-flv",
    "mp3": "audio/mpeg",
    "m4a": "audio/mp4",
    "aac": "audio/aac",
    "wav": "audio/wav",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
    "csv": "text/csv",
    "tsv": "text/tab-separated-values",
    "vtt": "text/vtt",
    "vcf": "text/x-vcard",
    "ics": "text/calendar",
    "java": "text/x-java",
    "go": "text/x-go",
    "rs": "text/x-rust",
    "toml": "application/toml",
    "sql": "application/sql",
    "css": "text/css",
    "xml": "application/xml",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "pdf": "application/pdf",
    "rtf": "application/rtf",
    "epub": "application/epub+zip",
    "doc": "application/msword",
    "xls": "application/vnd.ms-excel",
    "ppt": "application/vnd.ms-powerpoint",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "odt": "application/vnd.oasis.opendocument.text",
    "ods": "application/vnd.oasis.opendocument.spreadsheet",
    "odp": "application/vnd.oasis.opendocument.presentation",
    # A compressed file is what it is compressed with, not what is inside.
    **dict.fromkeys(["gz", "tgz"], "application/gzip"),
    **dict.fromkeys(["bz2", "tbz2"], "application/x-bzip2"),
    **dict.fromkeys(["xz", "txz"], "application/x-xz"),
    "zst": "application/zstd",
    "zip": "application/zip",
    "tar": "application/x-tar",
    "7z": "application/x-7z-compressed",
    "rar": "application/vnd.rar",
}

#: Extensions of MPEG transport streams that stand for TypeScript, too.
_TYPESCRIPT = frozenset({"ts", "mts"})
#: Packets of a transport stream begin with this byte, after a time stamp on some media.
_SYNC = 0x47
_PACKET_BYTES = {0: (188, 204), 4: (192,)}
#: A key of SMPTE's registry: how an MXF partition begins.
_MXF = b"\x06\x0e\x2b\x34\x02\x05\x01\x01"
#: How the first packet of a video stream in an Ogg file begins: Theora, VP8, Dirac, OGM.
_OGG_VIDEO = re.compile(rb"\x80theora|OVP80|BBCD\0|\x01video\0")
#: What the first bytes may overrule a name with: text and archives are too easily mistaken.
_MEDIA = re.compile(r"(image|video|audio)/|application/pdf$")
#: A signature of one or two bytes proves nothing; puremagic counts a tenth for each byte.
_LEAST_BYTES, _LEAST_CONFIDENCE = 3, 0.3
#: Kinds that share a first signature, so that only the name tells them apart.
_SAME_SIGNATURE = (
    frozenset({"video/mp4", "video/quicktime", "video/3gpp", "video/3gpp2", "audio/mp4"}),
    frozenset({"image/heic", "image/heif", "image/avif"}),
    frozenset({"video/x-matroska", "video/webm"}),
    frozenset({"video/x-ms-wmv", "video/x-ms-asf"}),
    frozenset({"video/ogg", "audio/ogg"}),
)


def content_type(path: bytes, head: bytes) -> str:
    """Return the content type of the file named `path` whose first `HEAD_BYTES` bytes are `head`.

    The first bytes overrule the name where they show an image, a video, sound or a PDF of another
    kind than the name says.
    """
    extension = _extension(path)
    named = CONTENT_TYPES.get(extension)
    if _is_text(head):
        if extension in _TYPESCRIPT and head:
            return "text/x-typescript"
        return named or _OCTET_STREAM
    seen = _seen(head)
    if seen is None or any({named, seen} <= kinds for kinds in _SAME_SIGNATURE):
        return named or seen or _OCTET_STREAM
    return seen


def _extension(path: bytes) -> str:
    _, dot, extension = path.rpartition(b"/")[2].rpartition(b".")
    return extension.decode("ascii", "replace").lower() if dot else ""


def _is_text(head: bytes) -> bool:
    try:
        # A character may be cut at the end.
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head


def _seen(head: bytes) -> str | None:
    """Return the type of media that `head` shows; None where it shows none."""
    if _is_transport_stream(head):
        return "video/mp2t"
    if _MXF in head:
        return "video/mxf"
    if not any(begins.match(head, offset) for offset, begins in _media_signatures()):
        return None
    import puremagic  # noqa: PLC0415 - see below

    for match in puremagic.magic_string(head):
        kind = CONTENT_TYPES.get(match.extension.removeprefix("."), "")
        if match.confidence >= _LEAST_CONFIDENCE and _MEDIA.match(kind):
            return "video/ogg" if kind == "audio/ogg" and _OGG_VIDEO.search(head) else kind
    return None


@functools.cache
def _media_signatures() -> list[tuple[int, re.Pattern[bytes]]]:
    """Return, by offset, what tells that a file may be media: half a millisecond less a file."""
    # Its tables take some time to load: commands that send nothing do without.
    import puremagic  # noqa: PLC0415

    found: dict[int, set[bytes]] = {}
    for known in puremagic.magic_header_array:
        kind = CONTENT_TYPES.get(known.extension.removeprefix("."), "")
        if len(known.byte_match) >= _LEAST_BYTES and _MEDIA.match(kind):
            found.setdefault(known.offset, set()).add(known.byte_match)
    # The kind of these stands further on.
    found[0] |= {b"RIFF", b"ID3"}
    return [(at, re.compile(b"|".join(map(re.escape, marks)))) for at, marks in found.items()]


def _is_transport_stream(head: bytes) -> bool:
    return any(
        len(head) > 3 * size and all(head[start::size][i] == _SYNC for i in range(3))
        for start, sizes in _PACKET_BYTES.items()
        for size in sizes
    )
