"""Colour profiles made by hand, from the published primaries (adapted to D50) of well-known spaces."""

import struct


def fixed(*values):
    return struct.pack(f">{len(values)}l", *(round(value * 65536) for value in values))


def parametric(form, *parameters):
    return b"para\0\0\0\0" + struct.pack(">HH", form, 0) + fixed(*parameters)


def curve(*samples):
    return b"curv\0\0\0\0" + struct.pack(">L", len(samples)) + struct.pack(f">{len(samples)}H", *samples)


def profile(space, tags):
    """A profile of version 2.4 with these tags, each padded to four bytes (ICC.1, section 7)."""
    body, table, start = b"", b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4sLL", name, start + len(body), len(data))
        body += data.ljust(-(-len(data) // 4) * 4, b"\0")
    head = struct.pack(">L4sL4s4s4s", start + len(body), b"none", 0x02400000, b"mntr", space, b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">L", len(tags)) + table + body


SRGB_CURVE = parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_ABOUT = {
    b"desc": b"desc\0\0\0\0" + struct.pack(">L", 5) + b"test\0" + bytes(78),
    b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249),
}
_PRIMARIES = {
    "srgb": ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)),
    "p3": ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)),
    "adobe": ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)),
    "prophoto": ((0.79767, 0.28804, 0.0), (0.13519, 0.71187, 0.0), (0.03134, 0.00009, 0.82491)),
}


def matrix(primaries, tone):
    columns = zip((b"rXYZ", b"gXYZ", b"bXYZ"), _PRIMARIES[primaries], strict=True)
    tags = {name: b"XYZ \0\0\0\0" + fixed(*column) for name, column in columns}
    return profile(b"RGB ", _ABOUT | tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), tone))


PROFILES = {
    "display p3": matrix("p3", SRGB_CURVE),
    "adobe rgb": matrix("adobe", curve(563)),
    "prophoto": matrix("prophoto", curve(461)),
    "a table": matrix("adobe", curve(*(round(65535 * (i / 255) ** 1.8) for i in range(256)))),
    "linear": matrix("p3", curve()),
}
SRGB = matrix("srgb", SRGB_CURVE)
GREY_GAMMA = profile(b"GRAY", _ABOUT | {b"kTRC": curve(461)})
LOOKUP = profile(b"RGB ", _ABOUT | {b"A2B0": b"mft1" + bytes(60)})
