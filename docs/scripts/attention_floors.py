"""Time of a backbone's attention against what the machine needs at least.

``python docs/scripts/attention_floors.py ResT:arch=small`` times every size of attention that the
model computes, alone, and puts beside it two floors: the time to read and write its inputs, outputs
and their gradients once, at the speed of a large copy, and the time for its arithmetic, at the
speed of the fastest matrix product. Softmax is in neither. The arithmetic of a training step
includes the logits that the backward pass computes anew.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mmrest.benchmark.machine import (
    describe_machine,
    measure_bandwidth,
    measure_peak,
    time_call,
    write_measurements,
)
from mmrest.benchmark.models import build_backbone, parse_model
from mmrest.commands.cli import parse_shape
from mmrest.commands.output_files import require_new_file
from mmrest.errors import InputError, clear_errors
from mmrest.ops import attention, emsa, use_implementation
from mmrest.ops.dispatch import IMPLEMENTATIONS

COLUMNS = (
    'attention', 'times', 'implementation', 'mode', 'ms', 'memory floor (ms)',
    'arithmetic floor (ms)', 'time / floor',
)  # fmt: skip


class Size(NamedTuple):
    """A size of attention.

    Attributes:
        batch: Maps of queries.
        heads: Of each.
        queries: Of a head.
        keys: Of a head.
        head_dim: Channels of a head.
        mixed: Whether heads are mixed, as in ResT, or it is plain attention.
    """

    batch: int
    heads: int
    queries: int
    keys: int
    head_dim: int
    mixed: bool

    def __str__(self) -> str:
        """As the table shows it."""
        maps = f'{self.batch} x ' if self.batch > 1 else ''
        return f'{maps}{self.heads} heads, {self.queries} x {self.keys} of {self.head_dim}'


class _Recorder(TorchDispatchMode):
    """Counts the sizes of the attention that is computed blockwise."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: Counter[Size] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.mmrest.attend_blockwise.default:
            q, k, _, mix = args[:4]
            size = Size(*q.shape[:3], k.shape[2], q.shape[3], mixed=mix is not None)
            self.sizes[size] += 1
        return func(*args, **(kwargs or {}))


def find_sizes(model: torch.nn.Module, batch_size: int, shape: tuple[int, int]) -> Counter[Size]:
    """The sizes of attention of a forward pass, and how often each is computed."""
    images = torch.empty(batch_size, 3, *shape, device='meta')
    model.to('meta').eval()  # mmdet's return None from it
    with torch.no_grad(), use_implementation('blockwise'), _Recorder() as recorder:
        model(images)
    return recorder.sizes


def make_call(
    size: Size, implementation: str, mode: str, device: str, dtype: torch.dtype
) -> Callable:
    """What computes an attention of a size, with its gradients in training."""
    kind = dict(device=device, dtype=dtype)
    batch, heads, queries, keys, head_dim, mixed = size
    # in the layout in which linear layers leave them
    q = torch.randn(batch, queries, heads, head_dim, **kind).transpose(1, 2)
    k, v = torch.randn(batch, keys, 2, heads, head_dim, **kind).permute(2, 0, 3, 1, 4)
    inputs = [q, k, v]
    if mixed:
        inputs.append(torch.randn(heads, heads, device=device))

    def attend(*given: Tensor) -> Tensor:
        with use_implementation(implementation):
            return (emsa if mixed else attention)(*given)

    if mode == 'infer':

        def call() -> Tensor:
            with torch.no_grad():
                return attend(*inputs)

        return call
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    direction = torch.randn_like(attend(*inputs))
    return lambda: torch.autograd.grad(attend(*inputs), inputs, direction)


def find_floors(size: Size, mode: str, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes that have to be moved and operations of matrix products that have to be done."""
    call = make_call(size, 'blockwise', mode, 'meta', dtype)
    with FlopCounterMode(display=False) as counter:
        call()
    of_query, of_key = (
        size.batch * size.heads * tokens * size.head_dim * dtype.itemsize
        for tokens in (size.queries, size.keys)
    )
    # q and out, k and v; in training also out, its gradient and q again, and q's; k, v and theirs
    moved = 2 * of_query + 2 * of_key
    if mode == 'train':
        moved += 4 * of_query + 4 * of_key
    return moved, counter.get_total_flops()


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('model', metavar='MODEL', help='TYPE[:key=value,...], for example ResT')
    parser.add_argument('--shape', default='800x1344', metavar='HxW')
    parser.add_argument('--impl', nargs='+', choices=IMPLEMENTATIONS, default=['auto'])
    parser.add_argument('--mode', nargs='+', choices=['infer', 'train'], default=['infer', 'train'])
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument('--dtype', choices=['float32', 'bfloat16', 'float16'], default='float32')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--threads', type=int, default=0, help='of the processor; 0: all')
    parser.add_argument('--csv', metavar='FILE', help='write the table here too, with the machine')
    parser.add_argument('--force', action='store_true', help='replace the file')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with clear_errors():
        model = parse_model(args.model)
        if isinstance(model, str):
            raise InputError(f'{args.model}: name a backbone, for example ResT:arch=small')
        if args.batch_size < 1 or args.threads < 0:
            raise InputError('--batch-size must be at least 1, --threads at least 0')
        if args.device == 'cuda' and not torch.cuda.is_available():
            raise InputError('--device cuda: torch sees no GPU here')
        if args.csv:
            require_new_file('--csv', args.csv, args.force, '--force replaces it')
        sizes = find_sizes(build_backbone(model), args.batch_size, parse_shape(args.shape))
        if not sizes:
            raise InputError(f"{args.model} has no attention of mmrest's")
        table = measure(sizes, args)
        if args.csv:
            write_csv(args.csv, table, args)
            print(f'written to {args.csv}')


def measure(sizes: Counter[Size], args: argparse.Namespace) -> list[dict[str, str]]:
    """The table's rows, which are printed as they come."""
    dtype = getattr(torch, args.dtype)
    peak = measure_peak(args.device, args.dtype, args.threads)
    bandwidth = measure_bandwidth(args.device, args.threads)
    print(f'Products reach {peak / 1e9:.0f} GFLOP/s, a copy {bandwidth / 1e9:.1f} GB/s.\n')
    print(f'| {" | ".join(COLUMNS)} |\n|{"---|" * len(COLUMNS)}')
    table = []
    for size, times in sizes.items():
        for mode in args.mode:
            moved, operations = find_floors(size, mode, dtype)
            floors = moved / bandwidth, operations / peak
            for implementation in args.impl:
                call = make_call(size, implementation, mode, args.device, dtype)
                seconds = time_call(call, args.threads).median
                shown = [seconds, *floors]
                cells = [
                    str(size),
                    str(times),
                    implementation,
                    mode,
                    *(f'{1e3 * s:.3f}' for s in shown),
                ]
                row = dict(zip(COLUMNS, [*cells, f'{seconds / max(floors):.1f}'], strict=True))
                print(f'| {" | ".join(row.values())} |', flush=True)
                facts = {'peak GFLOP/s': f'{peak / 1e9:.0f}', 'GB/s': f'{bandwidth / 1e9:.1f}'}
                table.append({**row, **facts})
    return table


def write_csv(path: str, table: list[dict[str, str]], args: argparse.Namespace) -> None:
    """The table, with a column for each fact about the machine."""
    given = {name: str(getattr(args, name)) for name in ('model', 'shape', 'dtype')}
    given['batch'] = str(args.batch_size)
    facts = {**given, **describe_machine(args.device, args.threads)}
    write_measurements(path, list(table[0]), [list(row.values()) for row in table], facts)


if __name__ == '__main__':
    main()
