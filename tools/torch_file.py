# SPDX-License-Identifier: Apache-2.0
"""Files as torch.save writes them, made with the standard library alone: a stored zip of a protocol 2 pickle and raw
storages. For fixtures and malformed cases."""
import collections
import io
import pickle
import sys
import types
import zipfile


def _stand_in(module, name):
    """A global of torch that pickles under its own name without torch."""
    holder = sys.modules.setdefault(module, types.ModuleType(module))
    if not hasattr(holder, name):
        setattr(holder, name, type(name, (), {"__module__": module}))
    return getattr(holder, name)


class _Storage:
    def __init__(self, kind, key, count):
        self.id = ("storage", _stand_in("torch", kind), key, "cpu", count)


class _Call:
    def __init__(self, module, name, arguments):
        self.module, self.name, self.arguments = module, name, arguments

    def __reduce__(self):
        return _stand_in(self.module, self.name), self.arguments


class _Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.id if isinstance(value, _Storage) else None


def tensor_of(shape, key="0", storage="FloatStorage", offset=0, stride=None, count=None, parameter=False):
    """What torch.save makes of a tensor of this shape in storage `key`."""
    if stride is None:
        stride = []
        for i in range(len(shape)):
            step = 1
            for dim in shape[i + 1:]:
                step *= dim
            stride.append(step)
    elements = 1
    for dim in shape:
        elements *= dim
    arguments = (_Storage(storage, key, elements if count is None else count), offset, tuple(shape), tuple(stride), False,
                 collections.OrderedDict())
    call = _Call("torch._utils", "_rebuild_tensor_v2", arguments)
    return _Call("torch._utils", "_rebuild_parameter", (call, True, collections.OrderedDict())) if parameter else call


def pickled(value):
    out = io.BytesIO()
    _Pickler(out, protocol=2).dump(value)
    return out.getvalue()


def op(opcodes):
    """A pickle of protocol 2 by its opcodes."""
    return b"\x80\x02" + opcodes


def torch_zip(pickle_bytes, storages, byteorder=b"little", compress=False):
    """The archive: data.pkl, byteorder, data/KEY, version."""
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    members = {} if pickle_bytes is None else {"data.pkl": pickle_bytes}
    members["byteorder"] = byteorder
    members.update({"data/" + key: content for key, content in storages.items()})
    members["version"] = b"3\n"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo("archive/" + name), content, compress_type=method)
    return out.getvalue()
