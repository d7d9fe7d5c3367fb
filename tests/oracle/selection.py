#!/usr/bin/env python3
"""Selection, written down a second time, from its description alone (docs/hashing.md).

Prints the golden vectors of src/dataplane/select.rs and the digests of src/control/maglev.rs. SipHash is checked
against its authors' published vectors first.
"""

M64 = (1 << 64) - 1


def rotate(x, n):
    return (x << n | x >> (64 - n)) & M64


def siphash24_128(key, data):
    """SipHash-2-4 with 128 bits of output (Aumasson, Bernstein; reference implementation siphash.c)."""
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v = [0x736F6D6570736575 ^ k0, 0x646F72616E646F6D ^ k1 ^ 0xEE, 0x6C7967656E657261 ^ k0, 0x7465646279746573 ^ k1]

    def rounds(n):
        for _ in range(n):
            v[0] = (v[0] + v[1]) & M64
            v[1] = rotate(v[1], 13) ^ v[0]
            v[0] = rotate(v[0], 32)
            v[2] = (v[2] + v[3]) & M64
            v[3] = rotate(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & M64
            v[3] = rotate(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & M64
            v[1] = rotate(v[1], 17) ^ v[2]
            v[2] = rotate(v[2], 32)

    whole = len(data) // 8 * 8
    blocks = [int.from_bytes(data[i : i + 8], "little") for i in range(0, whole, 8)]
    blocks.append(int.from_bytes(data[whole:], "little") | (len(data) & 0xFF) << 56)
    for block in blocks:
        v[3] ^= block
        rounds(2)
        v[0] ^= block
    v[2] ^= 0xEE
    rounds(4)
    first = v[0] ^ v[1] ^ v[2] ^ v[3]
    v[1] ^= 0xDD
    rounds(4)
    return first, v[0] ^ v[1] ^ v[2] ^ v[3]


def fold(a, b):
    product = a * b
    return (product & M64) ^ (product >> 64)


def selection_hash(text, source, destination, source_port, destination_port, protocol):
    first, second = siphash24_128(bytes(16), text.encode())
    secret = (0x2D358DCCAA6C78A5, 0x8BB84B93962EACC9)
    addresses = source << 32 | destination
    rest = source_port << 32 | destination_port << 16 | protocol
    return fold(secret[0] ^ first, fold(addresses ^ secret[1] ^ second, rest ^ first))


def key(i):
    """The same flows as in the test."""
    return 0xC0000201 + i % 4, 0xCB007102, 1024 + i % 64000, 80, 6


def layout(members, m):
    """Step 4: the owner of every slot, as an index into the members in order of (address, port)."""
    members = sorted(member for member in members if member[2] > 0)
    heaviest = max(weight for _, _, weight in members)
    walks = []
    for address, port, _ in members:
        h1, h2 = siphash24_128(bytes(16), address.to_bytes(4, "big") + port.to_bytes(2, "big"))
        walks.append([h1 % m, 1 + h2 % (m - 1)])
    # Everyone's turns, by round and then in order; more of them than there are slots.
    turns = sorted((k * heaviest // weight, i) for i, (_, _, weight) in enumerate(members) for k in range(m))
    owners = [None] * m
    for _, i in turns[:m]:
        walk = walks[i]
        while owners[walk[0]] is not None:
            walk[0] = (walk[0] + walk[1]) % m
        owners[walk[0]] = i
        walk[0] = (walk[0] + walk[1]) % m
    return members, owners


def mix(x):
    x = (x + 0x9E3779B97F4A7C15) & M64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & M64
    x = (x ^ x >> 27) * 0x94D049BB133111EB & M64
    return x ^ x >> 31


def stand_ins(members, owners, usable):
    """Step 5."""
    m = len(owners)
    slots = []
    for s in range(m):
        step, at = 1 + mix(s) % (m - 1), s
        while not usable(members[owners[at]]):
            at = (at + step) % m
        slots.append(owners[at])
    return slots


def looks(h):
    """Step 6: the hashes of the eight slots, and that of the place in the configuration."""
    hashes = [h]
    for _ in range(8):
        hashes.append(fold(hashes[-1] ^ 0x2D358DCCAA6C78A5, 0x8BB84B93962EACC9))
    return hashes


def digest(slots):
    return siphash24_128(bytes(16), b"".join(slot.to_bytes(4, "little") for slot in slots))


if __name__ == "__main__":
    # vectors.h of the reference implementation: vectors_sip128[0] and [1], key 00 01 … 0f, messages "" and 00.
    published = ["a3817f04ba25a8e66df67214c7550293", "da87c1d86b99af44347659119b22fc45"]
    for length, expected in enumerate(published):
        h = siphash24_128(bytes(range(16)), bytes(range(length)))
        assert b"".join(x.to_bytes(8, "little") for x in h).hex() == expected, "SipHash is wrong"
    for text, i in [("", 0), ("", 1), ("any text", 0), ("any text", 77777)]:
        print(f"0x{selection_hash(text, *key(i)):016x}")
    *slots, place = looks(selection_hash("any text", *key(0)))
    print("looks:", [h * 65537 >> 64 for h in slots], "then", place * 1000 >> 64)
    pool = [(0x0A000001 + i, 80, weight) for i, weight in enumerate([1, 2, 3, 0, 7])]
    members, owners = layout(pool, 65537)
    for down in [[], [1], [0, 4]]:
        addresses = [0x0A000001 + i for i in down]
        slots = stand_ins(members, owners, lambda member: member[0] not in addresses)
        # Named by the place in the configuration.
        h = digest([members[owner][0] - 0x0A000001 for owner in slots])
        print(f"down {down}: 0x{h[0]:016x}, 0x{h[1]:016x}")
