"""The kernels behind :mod:`mmrest.ops.triton.emsa`, where their mathematics is told.

``q``, ``k``, ``v`` and ``grad`` come with strides (image, head, row) and channels next to each
other; everything else is contiguous. ``heads``, ``width`` (channels of a head) and ``padded`` (the
power of two from ``width``) are compile-time constants, and tuples hold a tile for each head.
"""

import triton
import triton.language as tl


@triton.jit
def _load_heads(
    start, strides, image, rows, count, heads: tl.constexpr, width: tl.constexpr,
    padded: tl.constexpr,
):  # fmt: skip
    """A tuple of each head's rows, (rows, padded); zeros beyond ``count`` and ``width``."""
    channels = tl.arange(0, padded)
    places = start + image * strides[0] + rows[:, None] * strides[2] + channels[None, :]
    inside = (rows[:, None] < count) & (channels[None, :] < width)
    tiles = ()
    for head in tl.static_range(heads):
        tiles = tiles + (tl.load(places + head * strides[1], mask=inside, other=0.0),)
    return tiles


@triton.jit
def _store_head(start, tile, head, image, rows, count, heads, width, padded: tl.constexpr):
    """Store (rows, padded) into (image, row, head, width)."""
    channels = tl.arange(0, padded)
    places = ((image * count + rows) * heads + head)[:, None] * width + channels[None, :]
    inside = (rows < count)[:, None] & (channels < width)[None, :]
    tl.store(start + places, tile.to(start.dtype.element_ty), mask=inside)


@triton.jit
def _products(a, b, heads: tl.constexpr, precision: tl.constexpr):
    """A tuple of a_h b_h^T."""
    tiles = ()
    for head in tl.static_range(heads):
        tiles = tiles + (tl.dot(a[head], tl.trans(b[head]), input_precision=precision),)
    return tiles


@triton.jit
def _mix(tiles, weights, heads: tl.constexpr, across: tl.constexpr, along: tl.constexpr):
    """A tuple of sum_g weights[h, g] tiles[g], (across, along) being the strides of h and g."""
    mixed = ()
    for head in tl.static_range(heads):
        total = tiles[0] * tl.load(weights + head * across)
        for other in tl.static_range(1, heads):
            total += tiles[other] * tl.load(weights + head * across + other * along)
        mixed = mixed + (total,)
    return mixed


@triton.jit
def _zeros(count: tl.constexpr, rows: tl.constexpr):
    tiles = ()
    for _ in tl.static_range(count):
        tiles = tiles + (tl.zeros((rows,), tl.float32),)
    return tiles


@triton.jit
def _zero_tiles(count: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr):
    tiles = ()
    for _ in tl.static_range(count):
        tiles = tiles + (tl.zeros((rows, columns), tl.float32),)
    return tiles


@triton.jit
def forward_kernel(
    q, k, v, q_strides, k_strides, v_strides, mix, value_mean, out, log_sum, squares, queries, keys,
    heads: tl.constexpr, width: tl.constexpr, padded: tl.constexpr, block: tl.constexpr,
    step: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """D V, the rows' log-sum-exp and their sums of D^2, for a block of queries of an image."""
    image = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * block + tl.arange(0, block)
    q_tiles = _load_heads(q, q_strides, image, rows, queries, heads, width, padded)
    largest = ()
    for _ in tl.static_range(heads):
        largest = largest + (tl.full((block,), float('-inf'), tl.float32),)
    total, shift, square = _zeros(heads, block), _zeros(heads, block), _zeros(heads, block)
    summed = _zero_tiles(heads, block, padded)
    for start in range(0, keys, step):
        columns = start + tl.arange(0, step)
        inside = (columns < keys)[None, :]
        k_tiles = _load_heads(k, k_strides, image, columns, keys, heads, width, padded)
        v_tiles = _load_heads(v, v_strides, image, columns, keys, heads, width, padded)
        logits = _mix(_products(q_tiles, k_tiles, heads, precision), mix, heads, heads, 1)
        largest_, total_, shift_, square_, summed_ = (), (), (), (), ()
        for head in tl.static_range(heads):
            logit = tl.where(inside, logits[head], float('-inf'))
            top = tl.maximum(largest[head], tl.max(logit, 1))
            fade = tl.exp(largest[head] - top)
            weight = tl.exp(logit - top[:, None])
            weights = tl.sum(weight, 1)
            # the first step's mean is the constant that is subtracted throughout
            constant = tl.where(start == 0, weights / tl.minimum(keys, step), shift[head] * fade)
            weight = tl.where(inside, weight - constant[:, None], 0.0)
            part = tl.dot(weight.to(v.dtype.element_ty), v_tiles[head], input_precision=precision)
            largest_ = largest_ + (top,)
            total_ = total_ + (total[head] * fade + weights,)
            shift_ = shift_ + (constant,)
            square_ = square_ + (square[head] * fade * fade + tl.sum(weight * weight, 1),)
            summed_ = summed_ + (summed[head] * fade[:, None] + part,)
        largest, total, shift, square, summed = largest_, total_, shift_, square_, summed_
    channels = tl.arange(0, padded)
    for head in tl.static_range(heads):
        place = image * heads + head
        mean = tl.load(value_mean + place * width + channels, mask=channels < width, other=0.0)
        # the sum of what is left after subtracting the constant
        rest = total[head] - shift[head] * keys
        deviation = (summed[head] - rest[:, None] * mean[None, :]) / total[head][:, None]
        _store_head(out, deviation, head, image, rows, queries, heads, width, padded)
        spread = (square[head] - rest * rest / keys) / (total[head] * total[head])
        tl.store(squares + place * queries + rows, spread, mask=rows < queries)
        log_total = largest[head] + tl.log(total[head])
        tl.store(log_sum + place * queries + rows, log_total, mask=rows < queries)


@triton.jit
def _map_gradients(
    q_tiles, k_tiles, v_tiles, grad_tiles, mix, log_sum, delta, pull, image, rows, columns,
    queries, keys, heads: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Tuples of the logits before the mix, of D, and of the gradients after the mix, without r."""
    plain = _products(q_tiles, k_tiles, heads, precision)
    mixed = _mix(plain, mix, heads, heads, 1)
    products = _products(grad_tiles, v_tiles, heads, precision)
    valid = (rows < queries)[:, None] & (columns < keys)[None, :]
    deviations, gradients = (), ()
    for head in tl.static_range(heads):
        place = (image * heads + head) * queries + rows
        log_total = tl.load(log_sum + place, mask=rows < queries, other=0.0)
        offset = tl.load(delta + place, mask=rows < queries, other=0.0)
        prob = tl.where(valid, tl.exp(mixed[head] - log_total[:, None]), 0.0)
        deviation = tl.where(valid, prob - 1.0 / keys, 0.0)
        slope = products[head] + tl.load(pull + image * heads + head) * deviation
        deviations = deviations + (deviation,)
        gradients = gradients + (prob * (slope - offset[:, None]),)
    return plain, deviations, gradients


@triton.jit
def query_gradient_kernel(
    q, k, v, grad, q_strides, k_strides, v_strides, grad_strides, mix, mix_back, log_sum, delta,
    pull, dq, dmix, queries, keys,
    heads: tl.constexpr, width: tl.constexpr, padded: tl.constexpr, block: tl.constexpr,
    step: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """The gradient of a block of queries, and this block's part in the mix's."""
    image = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * block + tl.arange(0, block)
    q_tiles = _load_heads(q, q_strides, image, rows, queries, heads, width, padded)
    g_tiles = _load_heads(grad, grad_strides, image, rows, queries, heads, width, padded)
    dq_tiles, pairs = _zero_tiles(heads, block, padded), _zeros(heads * heads, block)
    for start in range(0, keys, step):
        columns = start + tl.arange(0, step)
        k_tiles = _load_heads(k, k_strides, image, columns, keys, heads, width, padded)
        v_tiles = _load_heads(v, v_strides, image, columns, keys, heads, width, padded)
        plain, _deviations, gradients = _map_gradients(
            q_tiles, k_tiles, v_tiles, g_tiles, mix, log_sum, delta, pull, image, rows, columns,
            queries, keys, heads, precision,
        )  # fmt: skip
        unmixed = _mix(gradients, mix_back + image * heads * heads, heads, 1, heads)
        dq_tiles_, pairs_ = (), ()
        for head in tl.static_range(heads):
            tile = unmixed[head].to(k.dtype.element_ty)
            part = tl.dot(tile, k_tiles[head], input_precision=precision)
            dq_tiles_ = dq_tiles_ + (dq_tiles[head] + part,)
            for other in tl.static_range(heads):
                sums = tl.sum(gradients[head] * plain[other], 1)
                pairs_ = pairs_ + (pairs[head * heads + other] + sums,)
        dq_tiles, pairs = dq_tiles_, pairs_
    place = (tl.program_id(0) * tl.num_programs(1) + image) * heads * heads
    for head in tl.static_range(heads):
        _store_head(dq, dq_tiles[head], head, image, rows, queries, heads, width, padded)
        for other in tl.static_range(heads):
            pair = tl.sum(pairs[head * heads + other])
            tl.store(dmix + place + head * heads + other, pair)


@triton.jit
def key_gradient_kernel(
    q, k, v, grad, q_strides, k_strides, v_strides, grad_strides, mix, mix_back, log_sum, delta,
    pull, dk, dv, widened, queries, keys, part_rows,
    heads: tl.constexpr, width: tl.constexpr, padded: tl.constexpr, block: tl.constexpr,
    step: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """What ``part_rows`` queries add to the gradients of a block of keys and values.

    D is taken times ``widened``, so that half precision's range holds it.
    """
    image = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * block + tl.arange(0, block)
    k_tiles = _load_heads(k, k_strides, image, columns, keys, heads, width, padded)
    v_tiles = _load_heads(v, v_strides, image, columns, keys, heads, width, padded)
    dk_tiles, dv_tiles = _zero_tiles(heads, block, padded), _zero_tiles(heads, block, padded)
    begin = tl.program_id(2) * part_rows
    for start in range(begin, tl.minimum(begin + part_rows, queries), step):
        rows = start + tl.arange(0, step)
        q_tiles = _load_heads(q, q_strides, image, rows, queries, heads, width, padded)
        g_tiles = _load_heads(grad, grad_strides, image, rows, queries, heads, width, padded)
        _plain, deviations, gradients = _map_gradients(
            q_tiles, k_tiles, v_tiles, g_tiles, mix, log_sum, delta, pull, image, rows, columns,
            queries, keys, heads, precision,
        )  # fmt: skip
        unmixed = _mix(gradients, mix_back + image * heads * heads, heads, 1, heads)
        dk_tiles_, dv_tiles_ = (), ()
        for head in tl.static_range(heads):
            tile = tl.trans(unmixed[head].to(q.dtype.element_ty))
            part = tl.dot(tile, q_tiles[head], input_precision=precision)
            dk_tiles_ = dk_tiles_ + (dk_tiles[head] + part,)
            tile = tl.trans((deviations[head] * widened).to(grad.dtype.element_ty))
            part = tl.dot(tile, g_tiles[head], input_precision=precision)
            dv_tiles_ = dv_tiles_ + (dv_tiles[head] + part,)
        dk_tiles, dv_tiles = dk_tiles_, dv_tiles_
    image += tl.program_id(2) * tl.num_programs(1)
    for head in tl.static_range(heads):
        _store_head(dk, dk_tiles[head], head, image, columns, keys, heads, width, padded)
        _store_head(dv, dv_tiles[head], head, image, columns, keys, heads, width, padded)
