"""The tasks of the stages that draw and measure: `evaluate`, `samples` and `export`."""

from collections.abc import Iterator
from contextlib import nullcontext

import torch

from naruto_add.config.schema import Params
from naruto_add.estimate.counts import Measured, evaluate_counts, export_counts, measured_counts, samples_counts
from naruto_add.estimate.drawing import drawing_tasks
from naruto_add.estimate.fake import measuring
from naruto_add.estimate.feature_networks import (
    Measuring,
    new_attribute_classifier,
    new_clip_score,
    new_features,
    new_perceptual,
)
from naruto_add.estimate.networks import Shapes, new_tiny, new_vae
from naruto_add.estimate.task import Task, weight_bytes
from naruto_add.evaluation.attributes import BATCH as CLASSIFIER_BATCH
from naruto_add.evaluation.clip import OFF
from naruto_add.evaluation.features import NETWORK_BATCH
from naruto_add.export.tiny_decoder import DISTILLED, MAX_TEST_PICTURES, MAX_TRAIN_PICTURES
from naruto_add.export.tiny_decoder import OFF as NO_TINY_DECODER
from naruto_add.models.tiny_decoder import BATCH_SIZE, CROP, decode_full, decode_tiny

SMALL_BATCH = 8
"""Pictures that `samples` and `export` draw at once: as many as there are prompts, or as are timed."""


def evaluate_tasks(params: Params, shapes: Shapes, num_test: int) -> Iterator[Task]:
    """Drawing beside the networks that measure, which stay on the GPU, then measuring alone."""
    counts, precision = evaluate_counts(params, num_test), params.base.frozen_precision
    with measuring():
        others = sum(weight_bytes(each.network) for each, _ in _measuring(params, shapes, Measured(0, 0, 0)))
    batch = params.evaluate.batch_size
    yield from drawing_tasks("evaluate", params, shapes, counts, batch=batch, precision=precision, others=others)
    yield _measuring_task(params, shapes, num_test)
    if params.evaluate.classifier_steps:
        yield _classifier_task(params.evaluate.classifier_steps, others)


def samples_tasks(params: Params, shapes: Shapes, num_test: int) -> Iterator[Task]:
    """Drawing the grids."""
    counts, precision = samples_counts(params, num_test), params.base.frozen_precision
    yield from drawing_tasks("samples", params, shapes, counts, batch=SMALL_BATCH, precision=precision)


def export_tasks(params: Params, shapes: Shapes, num_pictures: int) -> Iterator[Task]:
    """Checks and timing in fp32, and the tiny decoder."""
    yield from drawing_tasks("export", params, shapes, export_counts(params), batch=SMALL_BATCH, precision="fp32")
    if params.export.tiny_decoder != NO_TINY_DECODER:
        yield _tiny_decoder_task(params, shapes, num_pictures)


def _measuring(params: Params, shapes: Shapes, measured: Measured) -> Iterator[tuple[Measuring, int]]:
    """The networks that measure, each with how often it does."""
    evaluate = params.evaluate
    yield new_features(evaluate.features), measured.features
    yield new_perceptual(evaluate.perceptual, shapes.side_px), measured.pairs
    if evaluate.clip_score != OFF:
        yield new_clip_score(evaluate.clip_score), measured.captioned


def _measuring_task(params: Params, shapes: Shapes, num_test: int) -> Task:
    """All networks are on the GPU, and one of them measures."""
    flops = 0.0
    with measuring() as meter, torch.no_grad():
        networks = list(_measuring(params, shapes, measured_counts(params, num_test)))
        meter.hold(*(each.network for each, _ in networks))
        meter.start()
        for each, number in networks:
            before = meter.flops
            each.measure(NETWORK_BATCH)
            flops += (meter.flops - before) / NETWORK_BATCH * number
    return Task("evaluate", f"measure, {NETWORK_BATCH} at once", meter.peak, flops)


def _classifier_task(num_steps: int, others: int) -> Task:
    with measuring() as meter:
        classifier = new_attribute_classifier()
        meter.hold(classifier.network)
        meter.start()
        classifier.measure(CLASSIFIER_BATCH)
    peak = meter.peak + 2 * weight_bytes(classifier.network) + others  # AdamW has two averages
    return Task("evaluate", "train the attribute classifier", peak, meter.flops * num_steps)


def _tiny_decoder_task(params: Params, shapes: Shapes, num_pictures: int) -> Task:
    """Encoding, the training of a distilled decoder, and pictures of both decoders; only these are on the GPU."""
    is_distilled = params.export.tiny_decoder == DISTILLED
    num_train = min(MAX_TRAIN_PICTURES, round(num_pictures * _train_fraction(params))) if is_distilled else 0
    num_test = min(MAX_TEST_PICTURES, round(num_pictures * params.ingest.test_fraction))
    with measuring() as meter:
        vae = new_vae(shapes)
        tiny = new_tiny(shapes)
        meter.hold(vae, tiny)
        meter.start()
        with torch.no_grad():
            vae.encode(torch.empty(1, 3, shapes.side_px, shapes.side_px))
            of_encoding = meter.flops
            decode_tiny(tiny, shapes.latents(1)), decode_full(vae, shapes.latents(1))
        of_decoding = meter.flops - of_encoding
        crops = shapes.latents(BATCH_SIZE)[..., :CROP, :CROP]
        with nullcontext() if is_distilled else torch.no_grad():
            loss = (decode_tiny(tiny, crops) - decode_full(vae, crops)).abs().mean()
        if is_distilled:
            loss.backward()
        of_step = meter.flops - of_encoding - of_decoding
    num_steps = params.export.tiny_decoder_steps if is_distilled else 0
    flops = (num_train + num_test) * of_encoding + num_test * of_decoding + num_steps * of_step
    peak = meter.peak + 2 * weight_bytes(tiny) * is_distilled
    return Task("export", "tiny decoder", peak, flops)


def _train_fraction(params: Params) -> float:
    return 1 - params.ingest.validation_fraction - params.ingest.test_fraction
