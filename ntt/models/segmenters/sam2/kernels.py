"""GPU kernels of the fused decoder. Imports triton, which comes only with CUDA builds of torch.

Shapes are those of `decoder.py`; a program works on BLOCK image tokens of one prompt. Rows of all heads are side by
side in block-diagonal matrices: multiplying zeros costs less than writing intermediate products. Sums are float32,
whatever the inputs.
"""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def"

import triton
import triton.language as tl


@triton.jit
def _gelu(x, FORM: tl.constexpr):
    """GELU to 3e-6, or 3e-4 as "tanh": x times a logistic function of an odd polynomial fitted to it.

    "plain" runs everywhere, "logistic" takes two instructions of a GPU, and "tanh" one that is accurate to 5e-4.
    """
    square = x * x
    odd = x * (1.59565628 + square * (0.07293758 + square * (-2.4972e-4 + square * (-6.11623e-5 + square * 2.238e-6))))
    if FORM == "plain":
        share = 1 / (1 + tl.exp(-odd))
    elif FORM == "logistic":
        share = tl.inline_asm_elementwise(
            "{ .reg .f32 e; ex2.approx.ftz.f32 e, $1; add.f32 e, e, 0f3F800000; rcp.approx.ftz.f32 $0, e; }",
            constraints="=f,f",
            args=[odd * -1.4426950408889634],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )
    else:
        share = 0.5 + 0.5 * tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;",
            constraints="=f,f",
            args=[0.5 * odd],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )
    return x * share


@triton.jit
def _tile(pointer, rows, columns, STRIDE: tl.constexpr):
    """Load rows x columns of a matrix."""
    return tl.load(pointer + rows[:, None] * STRIDE + columns[None, :])


@triton.jit
def upscale_kernel(
    coefficients,
    folded,
    scale1,
    scale2,
    index,
    base,
    skip1,
    skip0,
    gain,
    bias,
    up2,
    hyper,
    logits,
    eps,
    NUM_TOKENS: tl.constexpr,
    GRID_X: tl.constexpr,
    BLOCK: tl.constexpr,
    K: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    FORM: tl.constexpr,
    GELU: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Upscaling: from coefficients to the logits of one mask.

    The FORM of the last layer is a "product" or "sums". "parts" are sums of one corner of a cell at a time, after 32
    coefficients at a time: the split factors of larger products in "tf32x3" do not fit into registers.
    """
    out_prompt = tl.program_id(1)
    prompt = tl.load(index + out_prompt)
    if prompt < 0:
        return
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k, first, second = tl.arange(0, K), tl.arange(0, FIRST), tl.arange(0, 4 * SECOND)
    coefficients += prompt * (K + 1) * NUM_TOKENS
    if FORM != "parts":
        c_NK = tl.trans(_tile(coefficients, k, token, NUM_TOKENS))
    factor1 = tl.load(scale1 + prompt * NUM_TOKENS + token).to(tl.float32)
    factor2 = tl.load(scale2 + prompt * NUM_TOKENS + token).to(tl.float32)
    gain_D = tl.load(gain + first).to(tl.float32)
    bias_D = tl.load(bias + first).to(tl.float32)
    if FORM == "parts":
        hyper_D = tl.load(hyper + out_prompt * SECOND + tl.arange(0, SECOND))
    else:
        up_DE = _tile(up2, first, second, 4 * SECOND)
        pixel = tl.arange(0, 16)
        hyper_E = tl.load(hyper + out_prompt * SECOND + second % SECOND)
        # As a product: the weights of the last layer once for each of four pixels, padded to 16.
        hyper_EQ = tl.where((second // SECOND)[:, None] == pixel[None, :], hyper_E[:, None], 0.0).to(up_DE.dtype)
    folded += prompt * (K + 1) * (4 * FIRST)
    row, column = token // GRID_X, token % GRID_X
    for sub_pixel in tl.static_range(4):
        channel = sub_pixel * FIRST + first
        if FORM == "parts":
            x = tl.zeros((BLOCK, FIRST), tl.float32)
            for start in range(0, K, 32):
                part = start + tl.arange(0, 32)
                c_NP = tl.trans(_tile(coefficients, part, token, NUM_TOKENS))
                x = tl.dot(c_NP, _tile(folded, part, channel, 4 * FIRST), x, input_precision=PRECISION)
        else:
            x = tl.dot(c_NK, _tile(folded, k, channel, 4 * FIRST), input_precision=PRECISION)
        # The last coefficient is 1.
        x += tl.load(folded + K * (4 * FIRST) + channel).to(tl.float32)[None, :]
        cells = token[:, None] * (4 * FIRST) + channel[None, :]
        x += factor1[:, None] * tl.load(base + cells).to(tl.float32)
        x = tl.load(skip1 + cells).to(tl.float32) + factor2[:, None] * x
        x -= (tl.sum(x, 1) / FIRST)[:, None]
        x *= tl.rsqrt(tl.sum(x * x, 1) / FIRST + eps)[:, None]
        x = _gelu(x * gain_D[None, :] + bias_D[None, :], GELU).to(up2.dtype.element_ty)
        if FORM != "parts":
            y = tl.dot(x, up_DE, input_precision=PRECISION)
            y += _tile(skip0, token * 4 + sub_pixel, second, 4 * SECOND).to(tl.float32)
        first_px = out_prompt.to(tl.int64) * NUM_TOKENS * 16 + (row * 4 + sub_pixel // 2 * 2) * (4 * GRID_X)
        first_px += column * 4 + sub_pixel % 2 * 2
        if FORM == "product":
            y = tl.dot(_gelu(y, GELU).to(up_DE.dtype), hyper_EQ, input_precision=PRECISION)
            offset = pixel // 2 * (4 * GRID_X) + pixel % 2
            tl.store(logits + first_px[:, None] + offset[None, :], y, mask=pixel[None, :] < 4)
        elif FORM == "sums":
            corner = tl.arange(0, 4)
            y = tl.sum(tl.reshape(_gelu(y, GELU) * hyper_E[None, :], (BLOCK, 4, SECOND)), 2)
            offset = corner // 2 * (4 * GRID_X) + corner % 2
            tl.store(logits + first_px[:, None] + offset[None, :], y)
        else:
            for corner in tl.static_range(4):
                second = corner * SECOND + tl.arange(0, SECOND)
                y = tl.dot(x, _tile(up2, first, second, 4 * SECOND), input_precision=PRECISION)
                y += _tile(skip0, token * 4 + sub_pixel, second, 4 * SECOND).to(tl.float32)
                y = tl.sum(_gelu(y, GELU) * hyper_D[None, :], 1)
                tl.store(logits + first_px + corner // 2 * (4 * GRID_X) + corner % 2, y)


@triton.jit
def _softmax_of_heads(scores, HEADS: tl.constexpr, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """Softmax over the tokens of each head: [HEADS * COUNT, BLOCK]."""
    by_head = tl.reshape(scores, (HEADS, COUNT, BLOCK))
    by_head = tl.exp(by_head - tl.max(by_head, 1, keep_dims=True))
    return tl.reshape(by_head / tl.sum(by_head, 1, keep_dims=True), (HEADS * COUNT, BLOCK))


@triton.jit
def first_kernel(
    keys,
    values,
    gram,
    query,
    norm,
    square,
    coefficients,
    scale1,
    eps,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
    R: tl.constexpr,
    E: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Block 0, image to tokens: coefficients and scale of its LayerNorm."""
    prompt, token = tl.program_id(1), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    r, e = tl.arange(0, R), tl.arange(0, E)
    query_EN, norm_EN = _tile(query, e, token, N), _tile(norm, e, token, N)
    scores = tl.dot(_tile(keys + prompt * R * E, r, e, E), query_EN, input_precision=PRECISION)
    attention = _softmax_of_heads(scores, 8, R // 8, BLOCK)
    rounded = attention.to(query_EN.dtype)
    total = tl.dot(_tile(values + prompt * R * E, r, e, E), norm_EN, input_precision=PRECISION)
    total += tl.dot(_tile(gram + prompt * R * R, r, r, R), rounded, input_precision=PRECISION)
    variance = tl.sum(rounded.to(tl.float32) * total, 0) + tl.load(square + token)
    scale = tl.rsqrt(tl.maximum(variance, 0.0) + eps)
    coefficients += prompt.to(tl.int64) * (2 * R + 1) * N
    tl.store(coefficients + r[:, None] * N + token[None, :], attention * scale[None, :])
    tl.store(coefficients + 2 * R * N + token, tl.full((BLOCK,), 1.0, tl.float32))
    tl.store(scale1 + prompt * N + token, scale)


@triton.jit
def second_kernel(
    keys,
    folded,
    values1,
    values2,
    gram,
    gram_constant,
    query,
    position,
    norm1,
    norm2,
    norm_constant,
    square,
    coefficients,
    scale1,
    scale2,
    eps,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
    R: tl.constexpr,
    E: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Block 1, image to tokens: the other coefficients, and the scale of its LayerNorm."""
    prompt, token = tl.program_id(1), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    r, e = tl.arange(0, R), tl.arange(0, E)
    coefficients += prompt.to(tl.int64) * (2 * R + 1) * N
    first_RN, first_scale = _tile(coefficients, r, token, N), tl.load(scale1 + prompt * N + token)
    keys_RE = _tile(keys + prompt * R * E, r, e, E)
    scores = tl.dot(keys_RE, _tile(query, e, token, N), input_precision=PRECISION) * first_scale[None, :]
    scores += tl.dot(_tile(folded + prompt * R * R, r, r, R), first_RN, input_precision=PRECISION)
    scores += tl.dot(keys_RE, _tile(position, e, token, N), input_precision=PRECISION)
    second_RN = _softmax_of_heads(scores, 8, R // 8, BLOCK).to(first_RN.dtype)
    tl.store(coefficients + (R + r)[:, None] * N + token[None, :], second_RN)
    gram += prompt * 4 * R * R
    gram_constant += prompt * (2 * R + 1)
    total1 = tl.dot(_tile(values1 + prompt * R * E, r, e, E), _tile(norm1, e, token, N), input_precision=PRECISION)
    total1 = total1 * first_scale[None, :] + 2 * tl.load(gram_constant + r)[:, None]
    total1 += tl.dot(_tile(gram, r, r, 2 * R), first_RN, input_precision=PRECISION)
    total1 += 2 * tl.dot(_tile(gram, r, R + r, 2 * R), second_RN, input_precision=PRECISION)
    total2 = tl.dot(_tile(values2 + prompt * R * E, r, e, E), _tile(norm2, e, token, N), input_precision=PRECISION)
    total2 = total2 * first_scale[None, :] + 2 * tl.load(gram_constant + R + r)[:, None]
    total2 += tl.dot(_tile(gram, R + r, R + r, 2 * R), second_RN, input_precision=PRECISION)
    variance = tl.sum(first_RN.to(tl.float32) * total1, 0) + tl.sum(second_RN.to(tl.float32) * total2, 0)
    variance += tl.load(norm_constant + token) * first_scale + tl.load(gram_constant + 2 * R)
    variance += tl.load(square + token) * first_scale * first_scale
    tl.store(scale2 + prompt * N + token, tl.rsqrt(tl.maximum(variance, 0.0) + eps))


@triton.jit
def gather_kernel(
    queries,
    folded,
    constant,
    key,
    position,
    value,
    coefficients,
    scale1,
    scale2,
    of_rows,
    of_ones,
    of_image,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
    R: tl.constexpr,
    K: tl.constexpr,
    E: tl.constexpr,
    ROWS: tl.constexpr,
    OUTER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attention of a prompt's tokens to the image: averages of coefficients, of the outer scale, of the values."""
    prompt, r, k, e = tl.program_id(0), tl.arange(0, R), tl.arange(0, K), tl.arange(0, E)
    coefficients += prompt.to(tl.int64) * ROWS * N
    queries_RE = _tile(queries + prompt * R * E, r, e, E)
    folded_RK = _tile(folded + prompt * R * K, r, k, K)
    constant_R = tl.load(constant + prompt * R + r)
    largest = tl.full((R,), float("-inf"), tl.float32)
    sums, total = tl.zeros((R,), tl.float32), tl.zeros((R,), tl.float32)
    rows_RK, image_RE = tl.zeros((R, K), tl.float32), tl.zeros((R, E), tl.float32)
    for start in range(0, N, BLOCK):
        token = start + tl.arange(0, BLOCK)
        c_KN = _tile(coefficients, k, token, N)
        inner = tl.load(scale1 + prompt * N + token)
        scores = tl.dot(queries_RE, _tile(key, e, token, N), input_precision=PRECISION) * inner[None, :]
        scores += tl.dot(folded_RK, c_KN, input_precision=PRECISION) + constant_R[:, None]
        if OUTER:
            outer = tl.load(scale2 + prompt * N + token)
            scores *= outer[None, :]
        scores += tl.dot(queries_RE, _tile(position, e, token, N), input_precision=PRECISION)
        new_largest = tl.maximum(largest, tl.max(scores, 1))
        shrink, weights = tl.exp(largest - new_largest), tl.exp(scores - new_largest[:, None])
        largest = new_largest
        sums = sums * shrink + tl.sum(weights, 1)
        if OUTER:
            weights *= outer[None, :]
        total = total * shrink + tl.sum(weights, 1)
        rows_RK = rows_RK * shrink[:, None]
        rows_RK += tl.dot(weights.to(c_KN.dtype), tl.trans(c_KN), input_precision=PRECISION)
        image_RE = image_RE * shrink[:, None]
        weights = (weights * inner[None, :]).to(c_KN.dtype)
        image_RE += tl.dot(weights, tl.trans(_tile(value, e, token, N)), input_precision=PRECISION)
    tl.store(of_rows + prompt * R * K + r[:, None] * K + k[None, :], rows_RK / sums[:, None])
    tl.store(of_ones + prompt * R + r, total / sums)
    tl.store(of_image + prompt * R * E + r[:, None] * E + e[None, :], image_RE / sums[:, None])
