"""The latent discriminator: features of the frozen U-Net, trainable heads, and their conditioning on captions."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from naruto_add.diffusion.bundle import ModelBundle, encode_prompts, tokenize
from naruto_add.diffusion.frozen_unet import frozen_unet
from naruto_add.models.discriminator import LatentDiscriminator, UnetFeatures, gradients_off, pooled_embeds
from naruto_add.models.student import recorded_outputs
from naruto_add.runtime.errors import StageError

BLOCKS = ["down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1"]
PROMPTS = ["a man with a sword", "a girl", "an old man wears a mask in a village at night"]


@pytest.fixture
def inputs(tiny_bundle: ModelBundle) -> tuple[Tensor, Tensor, Tensor]:
    latents = torch.randn(3, *tiny_bundle.latent_shape, generator=torch.Generator().manual_seed(0))
    return latents, torch.tensor([10, 500, 900]), encode_prompts(tiny_bundle, PROMPTS)


def build(features: UnetFeatures) -> LatentDiscriminator:
    torch.manual_seed(0)
    return LatentDiscriminator(features.num_channels, pooled_width=16)


def test_features_are_the_blocks_outputs(tiny_bundle: ModelBundle, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    with recorded_outputs(tiny_bundle.unet, BLOCKS) as outputs:
        tiny_bundle.unet(*inputs)
    expected = [outputs[name] for name in BLOCKS]
    features = UnetFeatures(tiny_bundle.unet, BLOCKS)
    torch.testing.assert_close(features(*inputs), expected, rtol=0, atol=0)
    assert [item.shape[1] for item in expected] == features.num_channels


def test_layers_after_the_deepest_block_are_not_computed_and_no_hook_stays(
    tiny_bundle: ModelBundle, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    calls: list[int] = []
    tiny_bundle.unet.up_blocks[2].register_forward_hook(lambda *_: calls.append(1))
    UnetFeatures(tiny_bundle.unet, ["up_blocks.1", "down_blocks.0"])(*inputs)
    assert not calls
    tiny_bundle.unet(*inputs)
    assert calls and not tiny_bundle.unet.up_blocks[1]._forward_hooks


def test_gradients_reach_the_latents_but_not_the_frozen_network(
    tiny_bundle: ModelBundle, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    latents = inputs[0].requires_grad_()
    features = UnetFeatures(tiny_bundle.unet, BLOCKS)(latents, *inputs[1:])
    sum(item.square().mean() for item in features).backward()
    assert latents.grad is not None and latents.grad.flatten(1).any(dim=1).all()
    assert all(item.grad is None for item in tiny_bundle.unet.parameters())
    assert not tiny_bundle.unet.training


def test_gradients_through_an_fp16_network_are_those_of_fp32_however_small(
    tiny_bundle: ModelBundle, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    def gradient(unet: UNet2DConditionModel) -> Tensor:
        latents = inputs[0].detach().clone().requires_grad_()
        features = UnetFeatures(unet, BLOCKS)(latents, *inputs[1:])
        (1e-6 * torch.stack([item.square().mean() for item in features]).mean()).backward()
        assert latents.grad is not None
        return latents.grad

    expected = gradient(tiny_bundle.unet)
    found = gradient(frozen_unet(copy.deepcopy(tiny_bundle.unet), torch.float16, tiny_bundle.device))
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_an_unknown_block_is_an_error_that_lists_the_blocks(tiny_bundle: ModelBundle) -> None:
    with pytest.raises(StageError, match=r"add\.discriminator_blocks: 'up_blocks\.9'.*'mid_block'"):
        UnetFeatures(tiny_bundle.unet, ["up_blocks.9"])


def test_every_head_has_a_logit_per_position(tiny_bundle: ModelBundle, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    features = UnetFeatures(tiny_bundle.unet, BLOCKS)
    maps = features(*inputs)
    logits = build(features)(maps, torch.randn(3, 16))
    assert [tuple(item.shape) for item in logits] == [(3, item[0, 0].numel()) for item in maps]


def test_logits_depend_on_the_caption(tiny_bundle: ModelBundle, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    features = UnetFeatures(tiny_bundle.unet, BLOCKS)
    discriminator, maps = build(features), features(*inputs)
    first, second = (discriminator(maps, torch.full((3, 16), value)) for value in (0.0, 1.0))
    assert all(not torch.allclose(one, other) for one, other in zip(first, second, strict=True))


def test_with_gradients_off_gradients_reach_the_features_and_not_the_heads(
    tiny_bundle: ModelBundle, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    features = UnetFeatures(tiny_bundle.unet, BLOCKS)
    discriminator = build(features)
    maps = [item.detach().requires_grad_() for item in features(*inputs)]
    with gradients_off(discriminator):
        logits = discriminator(maps, torch.randn(3, 16))
    sum(item.mean() for item in logits).backward()
    assert all(item.grad is not None and item.grad.any() for item in maps)
    assert all(item.grad is None and item.requires_grad for item in discriminator.parameters())


def test_heads_learn_to_distinguish_two_sets(tiny_bundle: ModelBundle, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    features = UnetFeatures(tiny_bundle.unet, BLOCKS)
    discriminator = build(features)
    pooled = torch.zeros(3, 16)
    real, fake = features(*inputs), features(inputs[0] * 0.5 + 1, *inputs[1:])
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=3e-3, betas=(0.0, 0.999))
    for _ in range(40):
        logits = zip(discriminator(real, pooled), discriminator(fake, pooled), strict=True)
        loss = torch.stack([(1 - one).relu().mean() + (1 + other).relu().mean() for one, other in logits]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5


def test_pooling_is_that_of_clip(tiny_bundle: ModelBundle) -> None:
    embeds, ids = encode_prompts(tiny_bundle, PROMPTS), tokenize(tiny_bundle, PROMPTS)
    pooled = pooled_embeds(embeds, ids, eos_token_id=tiny_bundle.tokenizer.eos_token_id)
    torch.testing.assert_close(pooled, tiny_bundle.text_encoder(ids).pooler_output)


def test_a_prompt_without_an_end_of_text_token_is_an_error() -> None:
    with pytest.raises(StageError, match="no end-of-text token"):
        pooled_embeds(torch.randn(1, 4, 8), torch.tensor([[1, 2, 3, 4]]), eos_token_id=9)
