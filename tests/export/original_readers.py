"""What tools build from a single file of Stable Diffusion 1.x: the name and shape of every tensor that they ask for.

Written from the rules of CompVis's original code, which AUTOMATIC1111 runs, of ComfyUI and of stable-diffusion.cpp. All
three ask for the original code's tensors; they differ in how they find the numbers of levels and layers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Shapes = dict[str, tuple[int, ...]]
"""The shape of each tensor of a network, by its name."""
MULTIPLES = (1, 2, 4, 4)
"""Channels of the levels of Stable Diffusion 1.x, in the U-Net and in the autoencoder, as multiples of the first."""


@dataclass
class UnetLayout:
    """Layers of each level, and for each layer from the first to the last how many transformers follow it."""

    width: int
    context_dim: int
    multiples: Sequence[int] = MULTIPLES
    layers: Sequence[int] = (2, 2, 2, 2)
    depths_in: Sequence[int] = (1, 1, 1, 1, 1, 1, 0, 0)
    depths_out: Sequence[int] = (0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1)
    has_middle: bool = True


def original_unet(layout: UnetLayout) -> Shapes:
    """The U-Net of this layout, whose blocks are numbered without gaps."""
    return dict(_unet(layout, _Numbers()))


def cpp_tiny_unet(width: int, context_dim: int) -> Shapes:
    """The tiny U-Net of stable-diffusion.cpp: a number is left out after each layer, and where the deepest level was.

    Its upsamplings have numbers of their own.
    """
    layout = UnetLayout(width, context_dim, (1, 2, 4), (1, 1, 1), (1, 1, 1), (1,) * 6, has_middle=False)
    numbers = _Numbers(inputs=[1, 3, 4, 6, 7], outputs=[0, 1, 3, 4, 6, 7], upsamplings={1: "2.1", 4: "5.2"})
    return dict(_unet(layout, numbers))


def comfyui_layout(shapes: Mapping[str, Sequence[int]]) -> UnetLayout:
    """What ComfyUI derives from the names and shapes in a file before it builds the U-Net.

    Input blocks are counted until a number is missing. Each downsampling ends a level. The transformers of the output
    blocks are counted from the last block on, beside the input blocks from the first on.
    """
    width, count = shapes["input_blocks.0.0.weight"][0], 0
    while any(name.startswith(f"input_blocks.{count}.") for name in shapes):
        count += 1
    layers, multiples, depths_in, depths_out, context_dim = [0], [0], [], [], 0
    for index in range(count):
        block, mirrored = f"input_blocks.{index}", f"output_blocks.{count - 1 - index}"
        if f"{block}.0.op.weight" in shapes:
            layers.append(0)
            multiples.append(0)
        elif f"{block}.0.in_layers.0.weight" in shapes:
            layers[-1] += 1
            multiples[-1] = shapes[f"{block}.0.out_layers.3.weight"][0] // width
            depths_in.append(_depth(shapes, block))
            if depths_in[-1]:
                context_dim = shapes[f"{block}.1.transformer_blocks.0.attn2.to_k.weight"][1]
        if f"{mirrored}.0.in_layers.0.weight" in shapes:
            depths_out.append(_depth(shapes, mirrored))
    has_middle = "middle_block.1.proj_in.weight" in shapes
    return UnetLayout(width, context_dim, multiples, layers, depths_in, depths_out[::-1], has_middle)


def original_autoencoder(width: int = 128, latent_channels: int = 4) -> Shapes:
    """Encoder and decoder of Stable Diffusion 1.x."""
    first, deepest = width, MULTIPLES[-1] * width
    shapes = dict(_conv("encoder.conv_in", 3, first, 3))
    channels = first
    for level, multiple in enumerate(MULTIPLES):
        for layer in range(2):
            shapes |= _autoencoder_layer(f"encoder.down.{level}.block.{layer}", channels, multiple * width)
            channels = multiple * width
        if level < len(MULTIPLES) - 1:
            shapes |= _conv(f"encoder.down.{level}.downsample.conv", channels, channels, 3)
    for coder in ("encoder", "decoder"):
        for layer in (1, 2):
            shapes |= _autoencoder_layer(f"{coder}.mid.block_{layer}", deepest, deepest)
        shapes |= _norm(f"{coder}.mid.attn_1.norm", deepest)
        for name in ("q", "k", "v", "proj_out"):
            shapes |= _conv(f"{coder}.mid.attn_1.{name}", deepest, deepest, 1)
    shapes |= _norm("encoder.norm_out", deepest) | _conv("encoder.conv_out", deepest, 2 * latent_channels, 3)
    shapes |= _conv("quant_conv", 2 * latent_channels, 2 * latent_channels, 1)
    shapes |= _conv("post_quant_conv", latent_channels, latent_channels, 1)
    shapes |= _conv("decoder.conv_in", latent_channels, deepest, 3)
    channels = deepest
    for level, multiple in reversed(list(enumerate(MULTIPLES))):
        for layer in range(3):
            shapes |= _autoencoder_layer(f"decoder.up.{level}.block.{layer}", channels, multiple * width)
            channels = multiple * width
        if level:
            shapes |= _conv(f"decoder.up.{level}.upsample.conv", channels, channels, 3)
    return shapes | _norm("decoder.norm_out", first) | _conv("decoder.conv_out", first, 3, 3)


def clip_text_encoder(width: int = 768, layers: int = 12, tokens: int = 49408, positions: int = 77) -> Shapes:
    """The text encoder of CLIP ViT-L/14."""
    shapes: Shapes = {
        "embeddings.token_embedding.weight": (tokens, width),
        "embeddings.position_embedding.weight": (positions, width),
        **_norm("final_layer_norm", width),
    }
    for index in range(layers):
        layer = f"encoder.layers.{index}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{layer}.self_attn.{name}", width, width)
        shapes |= _norm(f"{layer}.layer_norm1", width) | _norm(f"{layer}.layer_norm2", width)
        shapes |= _linear(f"{layer}.mlp.fc1", width, 4 * width) | _linear(f"{layer}.mlp.fc2", 4 * width, width)
    return {f"text_model.{name}": shape for name, shape in shapes.items()}


@dataclass
class _Numbers:
    """The number of each block by its place in the order of computation; without a table, it is the place itself."""

    inputs: Sequence[int] = tuple(range(1, 100))
    outputs: Sequence[int] = tuple(range(100))
    upsamplings: Mapping[int, str] = field(default_factory=dict)
    """Of an upsampling, by the number of the layer before it; others are in the block of that layer."""


def _unet(layout: UnetLayout, numbers: _Numbers) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, embedding = layout.width, 4 * layout.width
    yield from _linear("time_embed.0", width, embedding).items()
    yield from _linear("time_embed.2", embedding, embedding).items()
    yield from _conv("input_blocks.0.0", 4, width, 3).items()
    depths_in, depths_out, last = list(layout.depths_in), list(layout.depths_out), len(layout.layers) - 1
    inputs, outputs = iter(numbers.inputs), iter(numbers.outputs)
    channels, skipped = width, [width]
    for level, (layers, multiple) in enumerate(zip(layout.layers, layout.multiples, strict=True)):
        for _ in range(layers):
            block = f"input_blocks.{next(inputs)}"
            yield from _layer(block, channels, multiple * width, embedding)
            channels = multiple * width
            yield from _transformers(f"{block}.1", channels, layout.context_dim, depths_in.pop(0))
            skipped.append(channels)
        if level < last:
            yield from _conv(f"input_blocks.{next(inputs)}.0.op", channels, channels, 3).items()
            skipped.append(channels)
    if layout.has_middle:
        yield from _layer("middle_block", channels, channels, embedding)
        yield from _transformers("middle_block.1", channels, layout.context_dim, 1)
        yield from _layer("middle_block", channels, channels, embedding, place=2)
    for level in range(last, -1, -1):
        for layer in range(layout.layers[level] + 1):
            number, depth = next(outputs), depths_out.pop(0)
            block = f"output_blocks.{number}"
            yield from _layer(block, channels + skipped.pop(), layout.multiples[level] * width, embedding)
            channels = layout.multiples[level] * width
            yield from _transformers(f"{block}.1", channels, layout.context_dim, depth)
            if level and layer == layout.layers[level]:
                place = numbers.upsamplings.get(number, f"{number}.{2 if depth else 1}")
                yield from _conv(f"output_blocks.{place}.conv", channels, channels, 3).items()
    assert not depths_in + depths_out + skipped, "each layer and each skip connection is used"
    yield from _norm("out.0", channels).items()
    yield from _conv("out.2", channels, 4, 3).items()


def _layer(
    block: str, channels: int, out_channels: int, embedding: int, *, place: int = 0
) -> Iterator[tuple[str, tuple[int, ...]]]:
    shapes = {
        **_norm("in_layers.0", channels),
        **_conv("in_layers.2", channels, out_channels, 3),
        **_linear("emb_layers.1", embedding, out_channels),
        **_norm("out_layers.0", out_channels),
        **_conv("out_layers.3", out_channels, out_channels, 3),
        **(_conv("skip_connection", channels, out_channels, 1) if channels != out_channels else {}),
    }
    for name, shape in shapes.items():
        yield f"{block}.{place}.{name}", shape


def _transformers(block: str, channels: int, context_dim: int, depth: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    if not depth:
        return
    shapes = {
        **_norm("norm", channels),
        **_conv("proj_in", channels, channels, 1),
        **_conv("proj_out", channels, channels, 1),
    }
    for index in range(depth):
        inner = f"transformer_blocks.{index}"
        for attention, context in (("attn1", channels), ("attn2", context_dim)):
            shapes[f"{inner}.{attention}.to_q.weight"] = (channels, channels)
            shapes[f"{inner}.{attention}.to_k.weight"] = (channels, context)
            shapes[f"{inner}.{attention}.to_v.weight"] = (channels, context)
            shapes |= _linear(f"{inner}.{attention}.to_out.0", channels, channels)
        shapes |= _linear(f"{inner}.ff.net.0.proj", channels, 8 * channels)  # GEGLU: values and gates
        shapes |= _linear(f"{inner}.ff.net.2", 4 * channels, channels)
        for norm in ("norm1", "norm2", "norm3"):
            shapes |= _norm(f"{inner}.{norm}", channels)
    for name, shape in shapes.items():
        yield f"{block}.{name}", shape


def _autoencoder_layer(block: str, channels: int, out_channels: int) -> Shapes:
    shapes = {
        **_norm("norm1", channels),
        **_conv("conv1", channels, out_channels, 3),
        **_norm("norm2", out_channels),
        **_conv("conv2", out_channels, out_channels, 3),
        **(_conv("nin_shortcut", channels, out_channels, 1) if channels != out_channels else {}),
    }
    return {f"{block}.{name}": shape for name, shape in shapes.items()}


def _conv(name: str, channels: int, out_channels: int, side: int) -> Shapes:
    return {f"{name}.weight": (out_channels, channels, side, side), f"{name}.bias": (out_channels,)}


def _linear(name: str, channels: int, out_channels: int) -> Shapes:
    return {f"{name}.weight": (out_channels, channels), f"{name}.bias": (out_channels,)}


def _norm(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def _depth(shapes: Mapping[str, Sequence[int]], block: str) -> int:
    depth = 0
    while any(name.startswith(f"{block}.1.transformer_blocks.{depth}.") for name in shapes):
        depth += 1
    return depth
