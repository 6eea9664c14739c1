"""The kinds of media that a file's content shows, by how it begins and which tracks it has."""

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

#: Reads so many bytes of a file from an offset on, fewer where it ends.
Read = Callable[[int, int], bytes]

#: The most that is read to find out which tracks a file has.
_MOST_BYTES = 1 << 20


class _Tracks(NamedTuple):
    """The place where a container describes its tracks, and the marks of each family there."""

    find: Callable[[bytes, Read], bytes]
    video: bytes
    audio: bytes

    def family(self, head: bytes, read: Read) -> str:
        """Return how the container's content types begin, as far as its tracks tell."""
        described = self.find(head, read)
        if re.search(self.video, described, re.DOTALL):
            return "video/"
        return "audio/" if re.search(self.audio, described, re.DOTALL) else ""


#: How files begin, the content types they may have, and where their tracks tell more.
_Signature = tuple[bytes, list[str], _Tracks | None]


def kinds_of(named: str, head: bytes, read: Read) -> list[str]:
    """Return the content types that fit a file's content, the likeliest first; none if unknown.

    A recording may begin in the middle of a packet: where the name says what to look for, the
    signature may stand further on.
    """
    matching = []
    if _any().match(head):
        matching = [one for one in _SIGNATURES if re.match(one[0], head, re.DOTALL)]
    matching = matching or [
        one for one in _SIGNATURES if named in one[1] and re.search(one[0], head, re.DOTALL)
    ]
    if not matching:
        return []
    _, kinds, tracks = matching[0]
    family = tracks.family(head, read) if tracks else ""
    return [kind for kind in kinds if kind.startswith(family)]


@cache
def _any() -> re.Pattern[bytes]:
    """Return what matches if any signature does: most files have none, and cost one look."""
    return re.compile(b"|".join(pattern for pattern, _, _ in _SIGNATURES), re.DOTALL)


def _in_head(head: bytes, _read: Read) -> bytes:
    return head


def _in_movie(_head: bytes, read: Read) -> bytes:
    """Return how each track of an MP4 or QuickTime file begins; the index may stand at its end."""
    for kind, start, end in _boxes(read, 0):
        if kind == b"moov":
            tracks = [at for kind, at, _ in _boxes(read, start, end) if kind == b"trak"]
            return b"".join(read(1024, at) for at in tracks)
    return b""


def _boxes(read: Read, at: int, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each box, and where its content starts and ends."""
    for _ in range(1000):
        header = read(16, at)
        if len(header) < 8 or (end is not None and at >= end):
            return
        size, start = int.from_bytes(header[:4]), at + 8
        if size == 1:
            size, start = int.from_bytes(header[8:]), at + 16
        if size < start - at:
            return
        yield header[4:8], start, at + size
        at += size


def _in_matroska(head: bytes, _read: Read) -> bytes:
    """Return the list of tracks, up to the first frames."""
    tracks = head.partition(b"\x16\x54\xae\x6b")[2]
    return tracks.partition(b"\x1f\x43\xb6\x75")[0]


def _in_asf(head: bytes, read: Read) -> bytes:
    return read(min(int.from_bytes(head[16:24], "little"), _MOST_BYTES), 0)


_MOVIE = _Tracks(_in_movie, rb"hdlr.{8}vide", rb"hdlr.{8}soun")
_MATROSKA = _Tracks(_in_matroska, rb"\x83\x81\x01", rb"\x83\x81\x02")
_OGG = _Tracks(
    _in_head,
    rb"\x80(theora|daala)|OVP80|BBCD\0|\x01video\0",
    rb"\x01(vorbis|audio)|OpusHead|Speex   |\x7fFLAC",
)
_ASF_STREAM = rb"\xcf\x11\xa8\xfd\0\x80\x5f\x5c\x44\x2b"
_ASF = _Tracks(
    _in_asf, rb"\xc0\xef\x19\xbc\x4d\x5b" + _ASF_STREAM, rb"\x40\x9e\x69\xf8\x4d\x5b" + _ASF_STREAM
)
_REAL = _Tracks(_in_head, rb"video/x-pn-", rb"audio/x-pn-")

_MP4 = "video/mp4 video/quicktime video/3gpp video/3gpp2 audio/mp4"
#: A packet of a transport stream. A time stamp may stand before each, a checksum after it.
_PACKET = rb"G..[\x10-\x3f\x50-\x7f\x90-\xbf\xd0-\xff].{184}"
_START = rb"\0\0\0?\x01"


def _signature(pattern: bytes, kinds: str, tracks: _Tracks | None = None) -> _Signature:
    return pattern, kinds.split(), tracks


#: The first that matches counts. Four bytes that are mostly zeros prove nothing, so that more has
#: to fit.
_SIGNATURES = [
    _signature(rb"\x89PNG\r\n\x1a\n", "image/png"),
    _signature(rb"\xff\xd8\xff", "image/jpeg video/x-motion-jpeg"),
    _signature(rb"GIF8[79]a", "image/gif"),
    _signature(rb"II\*\0|MM\0[*+]", "image/tiff"),
    _signature(rb"RIFF....WEBP", "image/webp"),
    _signature(rb"%PDF-", "application/pdf"),
    _signature(rb"fLaC", "audio/flac"),
    _signature(rb"(RIFF|RF64|BW64)....WAVE", "audio/wav"),
    _signature(rb"ID3[\x02-\x04]", "audio/mpeg audio/aac audio/flac"),
    _signature(rb"\0...ftypcrx ", "image/x-canon-cr3"),
    _signature(rb"\0...ftyp(avi[fs]|mi[fa][1f].{4}(.{4}){0,6}avi[fs])", "image/avif"),
    _signature(rb"\0...ftyp(he[iv].|mi[fa][1f]|msf1)", "image/heic image/heif image/avif"),
    _signature(rb"\0...ftypM4[ABP] ", f"audio/mp4 {_MP4}", _MOVIE),
    _signature(rb"\0...ftypqt  ", f"video/quicktime {_MP4}", _MOVIE),
    _signature(rb"\0...ftyp3g2", f"video/3gpp2 {_MP4}", _MOVIE),
    _signature(rb"\0...ftyp3g", f"video/3gpp {_MP4}", _MOVIE),
    _signature(rb"\0...ftyp", _MP4, _MOVIE),
    # QuickTime had no `ftyp` at first.
    _signature(
        rb"(\0\0\0\x08(wide|free|skip))?(....(moov|mdat)|\0...pnot)",
        f"video/quicktime {_MP4}",
        _MOVIE,
    ),
    _signature(rb"\x1aE\xdf\xa3.{,60}webm", "video/webm video/x-matroska audio/webm", _MATROSKA),
    _signature(
        rb"\x1aE\xdf\xa3.{,60}matroska", "video/x-matroska video/webm audio/x-matroska", _MATROSKA
    ),
    _signature(rb"OggS\0", "video/ogg audio/ogg", _OGG),
    _signature(
        rb"0&\xb2u\x8ef\xcf\x11\xa6\xd9\0\xaa\0b\xcel",
        "video/x-ms-wmv video/x-ms-asf audio/x-ms-wma",
        _ASF,
    ),
    _signature(rb"\.RMF\0", "video/vnd.rn-realvideo audio/x-pn-realaudio", _REAL),
    _signature(rb"RIFF....AVI ", "video/x-msvideo"),
    _signature(rb"RIFF....AMV ", "video/x-amv"),
    _signature(rb"FLV\x01", "video/x-flv"),
    _signature(rb"DKIF\0\0 \0", "video/x-ivf"),
    _signature(rb"YUV4MPEG2 ", "video/x-yuv4mpeg"),
    _signature(rb"nut/multimedia container\0", "video/x-nut"),
    _signature(rb"\xb7\xd8\0\x207I\xda\x11\xa6N\0\x07\xe9\x5e\xad\x8d", "video/x-ms-wtv"),
    _signature(rb"\0{4}\x01\xbc.{8}\xe1\xe2", "video/x-gxf"),
    _signature(rb"\x1f\x07\0[\x3f\xbf].{76}\x3f\x07\0", "video/dv"),
    _signature(rb"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01\x02", "video/mxf"),
    _signature(rb"(%b){4}|(....%b){4}|(%b.{16}){4}" % (_PACKET, _PACKET, _PACKET), "video/mp2t"),
    # Packs, or a sequence: its sizes, its ratio and rate, a bit that is set.
    _signature(rb"\0\0\x01\xba[\x20-\x2f\x40-\x7f]|RIFF....CDXA", "video/mpeg"),
    _signature(
        rb"\0\0\x01\xb3...[\x11-\x18\x21-\x28\x31-\x38\x41-\x48]..[\x20-\x3f\x60-\x7f\xa0-\xbf\xe0-\xff]",
        "video/mpeg",
    ),
    _signature(
        rb"\0\0\x01\xb0.\0\0\x01\xb5|\0\0\x01[\0-\x1f]\0\0\x01[\x20-\x2f]",
        "video/mp4v-es video/mp4",
    ),
    # The parameters of a sequence, after a delimiter perhaps.
    _signature(
        rb"(%b\x09[\x10\x30\x50\x70\x90\xb0\xd0\xf0])?%b[\x27\x47\x67][\x42\x4d\x58\x64\x6e\x7a\xf4]"
        % (_START, _START),
        "video/h264",
    ),
    _signature(rb"(%b\x46\x01.)?%b\x40\x01\x0c" % (_START, _START), "video/h265"),
]
