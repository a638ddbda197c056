"""Safetensors files in plain Python, sharing nothing with m2: what convert.sh compares with.

    safetensors.py bert CASE GOLDEN DTYPE OUT     a case of tests/golden/bert.txt as a published state dict; prints its options
    safetensors.py same A B                       the same tensors of the same shapes in both, with the same bytes
    safetensors.py numpy A B                      the same through the safetensors and numpy packages; exit 77 without them
    safetensors.py h5py MANIFEST FILE             the whole tensors of a manifest through h5py; exit 77 without it
"""
import json
import struct
import sys

SIZES = {"F64": "d", "F32": "f", "I64": "q"}


def read(path):
    raw = open(path, "rb").read()
    (n,) = struct.unpack("<Q", raw[:8])
    header, data = json.loads(raw[8:8 + n]), raw[8 + n:]
    meta = header.pop("__metadata__", {})
    at = 0
    for name, t in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        assert t["data_offsets"][0] == at, name
        at = t["data_offsets"][1]
    assert at == len(data)
    return {k: (t["dtype"], t["shape"], data[slice(*t["data_offsets"])]) for k, t in header.items()}, meta


def write(path, tensors):
    header, data = {}, b""
    for name, (dtype, shape, values) in tensors.items():
        packed = struct.pack("<%d%s" % (len(values), SIZES[dtype]), *values)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    text = json.dumps(header).encode()  # of any length: alignment is our own habit, not the format's
    open(path, "wb").write(struct.pack("<Q", len(text)) + text + data)


def bert(case, golden, dtype, out):
    tensors, options, inside = {}, "", False
    for line in open(golden):
        words = line.split()
        if words[0] == "case":
            inside = words[1] == case
            options = " ".join(words[2:]) if inside else options
        elif words[0] == "tensor" and inside:
            rank = int(words[2])
            shape = [int(x) for x in words[3:3 + rank]]
            values = [float(x) for x in words[4 + rank:]]
            if words[1].endswith("position_ids"):
                tensors[words[1]] = ("I64", shape, [int(x) for x in values])
            else:
                tensors["model." + words[1]] = (dtype, shape, values)
    write(out, tensors)
    print(options)


def same(a, b):
    left, right = read(a)[0], read(b)[0]
    bare = {k[6:] if k.startswith("model.") else k: v for k, v in left.items()}
    assert bare.keys() == right.keys(), bare.keys() ^ right.keys()
    for name, (dtype, shape, data) in right.items():
        want = bare[name]
        assert (dtype, shape) == want[:2], (name, dtype, shape, want[:2])
        if name.endswith((".pos_emb.t", ".modulation.deltas")):  # computed, on both sides
            n = len(data) // struct.calcsize(SIZES[dtype])
            x, y = (struct.unpack("<%d%s" % (n, SIZES[dtype]), raw) for raw in (data, want[2]))
            assert all(abs(p - q) <= 1e-6 * abs(q) for p, q in zip(x, y)), name
        else:
            assert data == want[2], name
    print(len(right), "tensors")


def through_numpy(ours, theirs):
    try:
        import numpy
        import safetensors.numpy
        from safetensors import safe_open
    except ImportError:
        sys.exit(77)
    with safe_open(ours, "np") as f:
        assert "m2.config" in f.metadata()
        tensors = {k: f.get_tensor(k) for k in f.keys()}
    for name, (_, shape, data) in read(ours)[0].items():
        assert list(tensors[name].shape) == shape and tensors[name].tobytes() == data, name
    safetensors.numpy.save_file({k: numpy.ascontiguousarray(v) for k, v in reversed(tensors.items())}, theirs)


def whole_tensors(manifest, path):
    try:
        import h5py
        import numpy
    except ImportError:
        sys.exit(77)
    tensors = read(path)[0]
    with h5py.File(manifest, "r") as f:
        for name, (_, shape, data) in tensors.items():
            full = name if name[:2] in ("m/", "v/") else "param/" + name
            x = numpy.asarray(f[full])
            assert list(x.shape) == shape and x.tobytes() == data, name
    print(len(tensors), "tensors")


if __name__ == "__main__":
    {"bert": bert, "same": same, "numpy": through_numpy, "h5py": whole_tensors}[sys.argv[1]](*sys.argv[2:])
