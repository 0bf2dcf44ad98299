"""Gflops of what users bring: handles, learned parameters, wrappers, attention; and the model afterwards."""

import importlib
import io
import random
import threading
import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import AveragedModel
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from torch.utils.flop_counter import FlopCounterMode

import dit_eval.flops.operators
from dit_eval.flops.count import count_flops
from dit_eval.flops.counts import Counts

B, T, D = 2, 16, 8


class Apply(nn.Module):
    """Any function of tensors as a module."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)

    def forward(self, *inputs, **keywords):
        return self.function(*self.parts, *inputs, **keywords)


# Handles: only what they name is exempt from the comparison with PyTorch's counter


def wrong(inputs, outputs):
    return 5


def nothing(inputs, outputs):
    return 0


def test_a_handle_does_not_let_another_operators_miscount_through(monkeypatch):
    model = Apply(lambda fc, x: torch.cdist(fc(x), x), nn.Linear(D, D))
    x = torch.empty(B, T, D)
    assert count_flops(model, x, handles={"aten::cdist": nothing}).macs == B * T * D * D
    monkeypatch.setitem(dit_eval.flops.operators._RULES, "aten::linear", wrong)
    # cdist multiplies a matrix of its own inside, which is left out on both sides.
    with pytest.raises(ValueError, match=rf"trace has 5 multiply-adds, PyTorch's own counter {B * T * D * D:,}\."):
        count_flops(model, x, handles={"aten::cdist": nothing})


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x @ x.mT

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("aten::einsum", lambda fc, x: torch.einsum("btd,bsd->bts", fc(x), x)),
        ("aten::matmul", lambda fc, x: fc(x) @ x.mT),
        ("aten::scaled_dot_product_attention", lambda fc, x: F.scaled_dot_product_attention(fc(x), x, x)),
        ("aten::_convolution", lambda fc, x: F.conv1d(fc(x), x.new_zeros(3, T, 1))),
        ("prim::PythonOp.Product", lambda fc, x: Product.apply(fc(x))),
        ("aten::cumsum", lambda fc, x: fc(x).cumsum(1)),
    ],
)
def test_a_handle_stands_for_what_runs_inside_its_operator(monkeypatch, name, function, device):
    model, x = Apply(function, nn.Linear(D, D)).to(device), torch.empty(B, T, D, device=device)
    count = count_flops(model, x, handles={name: wrong})
    linear = Counts(macs=B * T * D * D, fvcore=B * T * D * D)
    # Where fc(x) is not the operator, a handle counts it and the linear layer is compared as always.
    assert count.by_operator["linear"] == linear
    assert count.macs == linear.macs + 5
    monkeypatch.setitem(dit_eval.flops.operators._RULES, "aten::linear", nothing)
    with pytest.raises(ValueError, match=rf"trace has 0 multiply-adds, PyTorch's own counter {linear.macs:,}\."):
        count_flops(model, x, handles={name: wrong})


def test_a_recurrent_network_counts_by_a_handle():
    count = count_flops(
        nn.LSTM(4, 3),
        torch.empty(5, 2, 4),
        handles={"aten::lstm": lambda inputs, outputs: 5 * 2 * 4 * 3 * (4 + 3)},
    )
    assert count.macs == 840


def test_a_handle_for_a_known_operator_still_sees_shapes():
    seen = []

    def macs(inputs, outputs):
        seen.append((inputs[:2], outputs))
        return 1

    count_flops(nn.Linear(D, 3), torch.empty(B, D), handles={"aten::linear": macs})
    assert seen == [([(B, D), (3, D)], [(B, 3)])]


# The model afterwards


class Opaque:
    def __init__(self, value):
        self.value = value


class Restless(nn.Module):
    """A model that may change itself while it runs."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.steps, self.calls, self.seen = kind, 0, [], {"a": 1}
        self.first = nn.Linear(D, D)
        self.rest = nn.Sequential(nn.LayerNorm(D), nn.Dropout(), nn.Linear(D, D))
        self.token = nn.Parameter(torch.zeros(1, 1, D))
        self.rest[1].eval()
        self.first.bias.requires_grad_(False)
        self.register_buffer("total", torch.zeros(D))
        self.register_buffer("fleeting", torch.ones(3), persistent=False)
        self.rest[0].register_forward_hook(keep_output)

    def forward(self, x):
        x = self.rest(self.first(x)) + self.token.expand(len(x), -1, -1)
        if self.kind in BEHAVIOURS:
            return BEHAVIOURS[self.kind](self, x)
        return x


def keep_output(module, inputs, output):
    return output


def change_everything(self, x):
    self.steps += 1
    self.calls.append(x)
    self.seen["a"] = x
    self.extra = nn.Linear(D, D)
    self.last = x
    self.total += 1
    self.fleeting = self.fleeting + 1
    self.first.weight.requires_grad_(False)
    self.first.register_forward_hook(keep_output)
    self.train()
    random.random()
    np.random.random()
    return x + torch.rand_like(x)


def fail(self, x):
    change_everything(self, x)
    raise KeyError("a mistake of the user")


def interrupt(self, x):
    raise KeyboardInterrupt


def fail_in_a_trace(self, x):
    change_everything(self, x)
    if torch.jit.is_tracing():
        raise KeyError("no trace of me")
    return x


def nested_mistake(self, x):
    return self.rest(x[0, 0, 0, 0])


BEHAVIOURS = {
    "changes itself": change_everything,
    "a mistake": fail,
    "a shape": nested_mistake,
    "an interrupt": interrupt,
    "no trace": fail_in_a_trace,
    "uncounted operator": lambda self, x: torch.cdist(x, x),
    "output of a class": lambda self, x: Opaque(x),
    "no output": lambda self, x: None,
    "checkpoint": lambda self, x: checkpoint(self.rest, x, use_reentrant=True),
    "other checkpoint": lambda self, x: checkpoint(self.rest, x, use_reentrant=False),
    "compiled": lambda self, x: torch.compile(torch.sin, backend="eager")(x),
    "an autograd function": lambda self, x: Product.apply(x),
    "three operands": lambda self, x: torch.einsum("bij,bjk,bkl->bil", x, x.mT, x),
}
OUTCOMES = {  # what is raised, or None
    **dict.fromkeys(["plain", "changes itself", "output of a class", "no output", "checkpoint", "other checkpoint"]),
    "compiled": None,
    "a mistake": KeyError,
    "a shape": IndexError,
    "an interrupt": KeyboardInterrupt,
    "no trace": ValueError,
    "uncounted operator": ValueError,
    "an autograd function": ValueError,
    "three operands": ValueError,
    "a broken handle": ZeroDivisionError,
    "a handle that answers a half": ValueError,
    "a miscount": ValueError,
}
HANDLES = {"a broken handle": lambda i, o: 1 // 0, "a handle that answers a half": lambda i, o: 0.5}


def contents(value):
    if isinstance(value, dict):
        return [(key, id(v)) for key, v in value.items()]
    return list(map(id, value)) if isinstance(value, list | set) else None


def values(tensor):
    plain = type(tensor) in (torch.Tensor, nn.Parameter) and not tensor.is_meta
    return tensor.detach().tolist() if plain else None


def everything(module):
    """All that a count could change: of the module, of torch, and of random numbers."""
    parts = [
        (name, id(part), part.training, {key: (id(v), contents(v)) for key, v in vars(part).items()})
        for name, part in module.named_modules()
    ]
    tensors = [
        (name, id(tensor), tensor.requires_grad, tensor.grad, values(tensor))
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
    ]
    of_torch = (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_rng_state().tolist(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.compile,
        torch.autograd.Function.__dict__["apply"],
        torch._C._get_tracing_state(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        list(_get_current_dispatch_mode_stack()),
        list(_get_current_function_mode_stack()),
        *(contents(getattr(nn.modules.module, f"_global_{name}")) for name in ("forward_hooks", "forward_pre_hooks")),
    )
    numpy = np.random.get_state()
    of_python = (random.getstate(), numpy[1].tolist(), numpy[2:], list(warnings.filters), threading.active_count())
    return parts, tensors, of_torch, of_python


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("kind", OUTCOMES)
def test_the_model_is_as_before_after_every_outcome(monkeypatch, kind, device):
    model = Restless(kind).to(device)
    x = torch.zeros(B, T, D, device=device)
    handles = {"aten::layer_norm": HANDLES[kind]} if kind in HANDLES else None
    if kind == "a miscount":
        monkeypatch.setitem(dit_eval.flops.operators._RULES, "aten::linear", wrong)
    before = everything(model)
    if OUTCOMES[kind] is None:
        assert count_flops(model, x, handles=handles).macs >= 2 * B * T * D * D
    else:
        with pytest.raises(OUTCOMES[kind]):
            count_flops(model, x, handles=handles)
    for now, then in zip(everything(model), before, strict=True):
        assert now == then
    torch.save(model, io.BytesIO())


def test_random_numbers_go_on_as_without_a_count():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    count_flops(Apply(lambda x: x + torch.rand_like(x)), torch.zeros(4))
    assert torch.equal(torch.rand(3), expected)


# Learned parameters on their way to a submodule


class Cross(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x, token):
        return self.left(x) + self.right(token).mean()


class Token(nn.Module):
    def __init__(self, view):
        super().__init__()
        self.cross, self.token, self.view = Cross(), nn.Parameter(torch.zeros(1, 4, D)), view

    def forward(self, x):
        return self.cross(x, self.view(self.token))


VIEWS = {  # and how many tokens reach the linear layer
    "as it is": (lambda t: t, 4),
    "repeat": (lambda t: t.repeat(B, 1, 1), 4 * B),
    "expand": (lambda t: t.expand(B, -1, -1), 4 * B),
    "slice": (lambda t: t[:, :1], 1),
    "select": (lambda t: t[0], 4),
    "view": (lambda t: t.view(2, 2, D), 4),
    "unsqueeze": (lambda t: t[None], 4),
    "transpose": (lambda t: t.transpose(0, 1), 4),
    "permute": (lambda t: t.permute(1, 0, 2), 4),
    "chunk": (lambda t: t.chunk(2, dim=1)[1], 2),
    "unbind": (lambda t: t.unbind(1)[0], 1),
    "detach": (lambda t: t.detach(), 4),
    "data": (lambda t: t.data[:, :3], 3),
    "as_strided": (lambda t: t.as_strided((2, D), (D, 1)), 2),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", VIEWS)
def test_a_view_of_a_parameter_counts(name, device):
    view, tokens = VIEWS[name]
    count = count_flops(Token(view).to(device), torch.empty(B, T, D, device=device))
    assert count.macs == (B * T + tokens) * D * D
    assert count.by_module["cross.right"].macs == tokens * D * D


def test_inputs_that_want_gradients_count():
    x = torch.empty(B, D, requires_grad=True)
    assert count_flops(nn.Sequential(nn.Linear(D, D)), x[:1].expand(3, -1)).macs == 3 * D * D


def test_what_is_computed_for_nothing_counts_as_pytorch_computes_it():
    def forward(used, unused, x):
        unused(x)
        return used(x)

    assert count_flops(Apply(forward, nn.Linear(D, D), nn.Linear(D, 2)), torch.empty(B, D)).macs == B * D * (D + 2)


# Compiled parts, checkpointing, wrappers: what is inside


def network():
    return nn.Sequential(nn.Linear(D, 16), nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 4), nn.BatchNorm1d(4)))


PARAMS = D * 16 + 16 + 2 * 16 + 16 * 4 + 4 + 2 * 4


@pytest.fixture(scope="module")
def process_group(tmp_path_factory):
    store = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def fsdp(module, **options):
    return FullyShardedDataParallel(module, device_id=torch.device("cpu"), **options)


def second_fsdp(module):
    mesh = init_device_mesh("cpu", (1,))
    fully_shard(module[1], mesh=mesh)
    return fully_shard(module, mesh=mesh)


def reentrant(module):
    return checkpoint_wrapper(module, checkpoint_impl=CheckpointImpl.REENTRANT)


def compiled_in_place(module):
    module.compile(backend="inductor")
    return module


WRAPPERS = {
    "compiled": torch.compile,
    "compiled in place": compiled_in_place,
    "averaged": AveragedModel,
    "data parallel": nn.DataParallel,
    "DDP": nn.parallel.DistributedDataParallel,
    "checkpointed": checkpoint_wrapper,
    "reentrant": reentrant,
    "FSDP": fsdp,
    "FSDP, original parameters": lambda module: fsdp(module, use_orig_params=True),
}
STACKS = {
    **WRAPPERS,
    "fully_shard": second_fsdp,
    "averaged, compiled": lambda module: AveragedModel(torch.compile(module)),
    "DDP of a compiled one": lambda module: nn.parallel.DistributedDataParallel(torch.compile(module)),
    "compiled DDP": lambda module: torch.compile(nn.parallel.DistributedDataParallel(module)),
}


def with_part(module, wrap):
    module[1] = wrap(module[1])
    return module


@pytest.mark.filterwarnings("ignore")  # FSDP warns of a CPU, DDP of one process
@pytest.mark.parametrize("name", STACKS)
def test_a_wrapped_model_counts_as_the_plain_one(process_group, name):
    plain = count_flops(network(), torch.zeros(B, D))
    assert (plain.macs, plain.norm_elements, plain.params) == (B * (D * 16 + 16 * 4), B * 16, PARAMS)
    model = STACKS[name](network())
    before = everything(model)[:3]
    assert count_flops(model, torch.zeros(B, D)) == plain  # by module, too
    if "FSDP" not in name and name != "fully_shard":  # these prepare themselves when they are first used
        assert everything(model)[:3] == before
    model.eval()
    assert model(torch.zeros(B, D)).shape == (B, 4) if "ompiled" not in name else True


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_part_counts_as_the_plain_one(process_group, name):
    plain = count_flops(network(), torch.zeros(B, D))
    assert count_flops(with_part(network(), WRAPPERS[name]), torch.zeros(B, D)) == plain


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrap", [fsdp, second_fsdp, lambda module: fsdp(with_part(module, fsdp))])
def test_a_model_spread_by_fsdp_trains_on_after_a_count(process_group, wrap):
    model = wrap(network())
    first, second = (count_flops(model, torch.zeros(B, D)) for _ in range(2))
    assert first == second
    model.train()
    model(torch.randn(B, D)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


doubled = torch.compile(lambda x: 2 * x)  # inductor, but it must never run


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    "function",
    [
        lambda fc, x: doubled(fc(x)),
        lambda fc, x: torch.compile(fc)(x),
        lambda fc, x: torch.compile(lambda y: fc(y))(x),
        lambda fc, x: torch.compile(mode="default")(lambda y: fc(y))(x),
        lambda fc, x: checkpoint(fc, x, use_reentrant=True),
        lambda fc, x: checkpoint(fc, x, use_reentrant=False),
        lambda fc, x: checkpoint(lambda y: fc(y) + y, x, use_reentrant=True),
        lambda fc, x: checkpoint(lambda y: checkpoint(fc, y, use_reentrant=True), x, use_reentrant=False),
        lambda fc, x: checkpoint_sequential([fc, torch.sin], 2, x, use_reentrant=True),
        lambda fc, x: OwnCheckpoint.apply(lambda y: (fc(y),), 1, x, *fc.parameters())[0],
        lambda fc, x: NewStyle.apply(fc, x),
    ],
)
def test_compiled_and_checkpointed_functions_count(function, device):
    count = count_flops(Apply(function, nn.Linear(D, D)).to(device), torch.empty(B, D, device=device))
    assert count.macs == count.by_module["parts.0"].macs == B * D * D


class OwnCheckpoint(torch.autograd.Function):
    """As guided diffusion and latent diffusion bring their own."""

    @staticmethod
    def forward(ctx, function, length, *args):
        ctx.function, ctx.inputs = function, args[:length]
        ctx.save_for_backward(*args[:length])
        with torch.no_grad():
            return function(*args[:length])

    @staticmethod
    def backward(ctx, *grads):
        raise NotImplementedError


class NewStyle(torch.autograd.Function):
    @staticmethod
    def forward(function, x):
        return function(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError


# Attention


H, S, E = 8, 7, 6
WHOLE = B * H * T * S * (D + E)
ATTENTION = {  # shapes of queries, keys, values; options; multiply-adds
    "plain": ((B, H, T, D), (B, H, S, D), (B, H, S, E), {}, WHOLE),
    "queries of all": ((1, H, T, D), (B, H, S, D), (B, H, S, E), {}, WHOLE),
    "queries of all, without a batch": ((T, D), (B, H, S, D), (B, H, S, E), {}, WHOLE),
    "keys and values of all": ((B, H, T, D), (1, 1, S, D), (1, 1, S, E), {}, WHOLE),
    "keys of all": ((B, H, T, D), (1, H, S, D), (B, H, S, E), {}, WHOLE),
    "values alone have a batch": ((1, H, T, D), (1, H, S, D), (B, H, S, E), {}, H * T * S * D + B * H * T * S * E),
    "one head of queries": ((B, 1, T, D), (B, H, S, D), (B, H, S, E), {}, WHOLE),
    "grouped": ((B, H, T, D), (B, 2, S, D), (B, 2, S, E), {"enable_gqa": True}, WHOLE),
    "one group": ((B, H, T, D), (B, 1, S, D), (B, 1, S, E), {"enable_gqa": True}, WHOLE),
    "groups of two sizes": ((B, H, T, D), (B, 2, S, D), (B, 4, S, E), {"enable_gqa": True}, WHOLE),
    "causal": ((B, H, T, D), (B, H, S, D), (B, H, S, E), {"is_causal": True}, WHOLE),
    "mask": ((B, H, T, D), (B, H, S, D), (B, H, S, E), {"attn_mask": (T, S)}, WHOLE),
    "mask for each": ((1, H, T, D), (B, H, S, D), (B, H, S, E), {"attn_mask": (B, 1, T, S)}, WHOLE),
    "no heads": ((T, D), (S, D), (S, E), {}, T * S * (D + E)),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", ATTENTION)
def test_attention_counts_its_two_products(name, device):
    *shapes, options, macs = ATTENTION[name]
    if "attn_mask" in options:
        options = {"attn_mask": torch.zeros(options["attn_mask"], device=device)}
    model = Apply(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options))
    assert count_flops(model, tuple(torch.zeros(shape, device=device) for shape in shapes)).macs == macs


# Operators that multiply nothing


def rotated(x):
    turns = torch.polar(torch.ones_like(x[..., ::2]), x[..., 1::2])
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns.conj()).flatten(-2)


def image(x):
    return x.reshape(B, 1, T, D)


WITHOUT_PRODUCTS = {
    "complex rotary positions": rotated,
    "complex parts": lambda x: torch.complex(x, x).real + torch.complex(x, x).imag + torch.complex(x, x).angle(),
    "sort": lambda x: x.sort(-1).values,
    "argsort": lambda x: x.gather(-1, x.argsort(-1)),
    "topk": lambda x: x.topk(2).values,
    "kthvalue": lambda x: x.kthvalue(2).values,
    "unique": lambda x: torch.unique(x) if not x.is_meta else x,
    "scatter": lambda x: torch.zeros_like(x).scatter(-1, x.argsort(-1), x),
    "scatter_add": lambda x: torch.zeros_like(x).scatter_add_(-1, x.argsort(-1), x),
    "scatter_reduce": lambda x: torch.zeros_like(x).scatter_reduce(-1, x.argsort(-1), x, "amax"),
    "index_add": lambda x: x.index_add(1, torch.zeros(T, dtype=torch.long, device=x.device), x),
    "index_copy": lambda x: x.index_copy(1, torch.zeros(T, dtype=torch.long, device=x.device), x),
    "take_along_dim": lambda x: x.take_along_dim(x.argsort(-1), -1),
    "antialiased bilinear": lambda x: F.interpolate(image(x), (4, 4), mode="bilinear", antialias=True),
    "antialiased bicubic": lambda x: F.interpolate(image(x), (4, 4), mode="bicubic", antialias=True),
    "nearest, exact": lambda x: F.interpolate(image(x), (4, 4), mode="nearest-exact"),
    "area": lambda x: F.interpolate(image(x), (4, 4), mode="area"),
    "trilinear": lambda x: F.interpolate(image(x)[None], (1, 4, 4), mode="trilinear"),
    "col2im": lambda x: F.fold(F.unfold(image(x), 2), (T, D), 2),
    "nan_to_num": lambda x: x.nan_to_num(),
    "nan_to_num in place": lambda x: x.clone().nan_to_num_(),
    "dropout in place": lambda x: F.dropout(x.clone(), inplace=True),
    "affine grid": lambda x: F.grid_sample(
        image(x), F.affine_grid(x[:, :2, :3], (B, 1, 4, 4), False), align_corners=False
    ),
    "statistics": lambda x: sum(torch.var_mean(x, -1)) + x.logsumexp(-1) + torch.linalg.vector_norm(x, dim=-1),
    "histogram": lambda x: torch.bucketize(x, torch.linspace(0, 1, 4, device=x.device)),
    "diagonal": lambda x: torch.diag_embed(x).diagonal(dim1=-2, dim2=-1),
    "shuffles": lambda x: F.channel_shuffle(F.pixel_unshuffle(image(x), 2), 2),
    "adaptive pools": lambda x: F.adaptive_avg_pool2d(image(x), 2) + F.adaptive_max_pool2d(image(x), 2),
    "replication": lambda x: F.pad(x, (1, 1), mode="replicate"),
    "angles": lambda x: torch.rad2deg(torch.asin(x.sin())) + torch.deg2rad(torch.acos(x.cos())) + x.sinh().asinh(),
    "places": lambda x: x[(x[:, 0, 0] > -1).nonzero(as_tuple=True)[0]] if not x.is_meta else x,
    "bits": lambda x: (x > 0) & (x < 1) ^ (x == 2),
    "old names": lambda x: torch.multiply(torch.absolute(x), torch.negative(x)).clip(0, 1),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", WITHOUT_PRODUCTS)
def test_operators_without_products_count_nothing(name, device):
    x = torch.rand(B, T, D, device=device)
    count = count_flops(Apply(lambda fc, x: WITHOUT_PRODUCTS[name](fc(x)), nn.Linear(D, D)).to(device), x)
    assert (count.macs, count.norm_elements) == (B * T * D * D, 0)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_is_refused_with_what_to_take_in_its_place():
    flex = pytest.importorskip("torch.nn.attention.flex_attention").flex_attention
    module = Apply(lambda fc, x: flex(*[fc(x)[None]] * 3), nn.Linear(D, D))
    with pytest.raises(ValueError, match=r"flex_attention.*scaled_dot_product_attention"):
        count_flops(module, torch.rand(B, T, D))


# Networks of libraries; all families are in benchmarks/models_that_count.py


def of_timm(file, name, **options):
    python = importlib.import_module(f"timm.models.{file}")
    return getattr(python, name)(**options), (torch.empty(1, 3, 224, 224),), {}


def of_torchvision(name, **options):
    from torchvision.models import get_model

    return get_model(name, weights=None, **options), (torch.empty(1, 3, 64, 64),), {}


def of_diffusers(name, config, keywords):
    import diffusers

    return getattr(diffusers, name)(**config), (), keywords()


def dit():
    config = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8, "out_channels": 8}
    return of_diffusers(
        "DiTTransformer2DModel",
        config,
        lambda: {
            "hidden_states": torch.empty(1, 4, 8, 8),
            "timestep": torch.zeros(1),
            "class_labels": torch.zeros(1, dtype=torch.long),
        },
    )


def flux():
    config = {
        "num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16,
        "in_channels": 4, "joint_attention_dim": 8, "pooled_projection_dim": 8, "axes_dims_rope": (4, 6, 6),
    }  # fmt: skip
    return of_diffusers(
        "FluxTransformer2DModel",
        config,
        lambda: {
            "hidden_states": torch.empty(1, 16, 4),
            "encoder_hidden_states": torch.empty(1, 3, 8),
            "pooled_projections": torch.empty(1, 8),
            "timestep": torch.empty(1),
            "img_ids": torch.zeros(16, 3),
            "txt_ids": torch.zeros(3, 3),
        },
    )


def unet():
    config = {
        "block_out_channels": (8, 16), "norm_num_groups": 4, "cross_attention_dim": 8, "attention_head_dim": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }  # fmt: skip
    return of_diffusers(
        "UNet2DConditionModel",
        config,
        lambda: {
            "sample": torch.empty(1, 4, 16, 16),
            "timestep": torch.zeros(1),
            "encoder_hidden_states": torch.empty(1, 5, 8),
        },
    )


LIBRARIES = {
    "timm cait, learned tokens": lambda: of_timm("cait", "Cait", depth=1, embed_dim=32, num_heads=2),
    "timm tnt, dropout in place": lambda: of_timm("tnt", "TNT", depth=1, embed_dim=32, inner_dim=8, num_heads_outer=2),
    "timm volo, col2im": lambda: of_timm(
        "volo", "VOLO", layers=(1, 1), embed_dims=(16, 32), num_heads=(2, 2), downsamples=(True, False)
    ),
    "timm naflexvit": lambda: of_timm(
        "naflexvit", "NaFlexVit", depth=1, embed_dim=32, num_heads=2, pos_embed="learned"
    ),
    "torchvision googlenet": lambda: of_torchvision("googlenet", init_weights=False),
    "diffusers DiT": dit,
    "diffusers Flux": flux,
    "diffusers U-Net": unet,
}


@pytest.mark.filterwarnings("ignore")  # of the libraries, on import
@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.slow
def test_networks_of_libraries_count_as_pytorch_counts_them(name):
    with torch.device("meta"):
        model, inputs, keywords = LIBRARIES[name]()
    before = everything(model)
    count = count_flops(model, inputs, keywords=keywords)
    assert everything(model) == before
    counter = FlopCounterMode(display=False)
    model.eval().requires_grad_(False)
    with torch.no_grad(), counter, sdpa_kernel(SDPBackend.MATH):
        model(*inputs, **keywords)
    assert 2 * count.macs == counter.get_total_flops() > 0


def test_an_operator_inside_a_scripted_function_is_counted_or_named():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shifted, product = torch.jit.script(shift), torch.jit.script(square)
    model = Apply(lambda fc, x: shifted(fc(x)), nn.Linear(D, D))
    count = count_flops(model, torch.empty(B, D))
    assert (count.macs, count.negligible) == (B * D * D, {"aten::sin": 1})
    with pytest.raises(ValueError, match="aten::matmul is in a scripted function"):
        count_flops(Apply(lambda x: product(x)), torch.empty(B, D))


def shift(x: torch.Tensor) -> torch.Tensor:
    return x.sin() if x.shape[0] > 1 else x


def square(x: torch.Tensor) -> torch.Tensor:
    return x @ x.mT
