"""U-Nets that predict v instead of epsilon, as those of Stable Diffusion 2.x do."""

from typing import Any

from diffusers import UNet2DConditionModel

V_SCHEDULE = "v_schedule"
"""The buffer with alpha_bar of a U-Net that predicts v."""


def convert_predictions(unet: UNet2DConditionModel, scheduler: Any) -> UNet2DConditionModel:
    """The same U-Net, of which `sampling.noise_pred` returns epsilon if this scheduler's model predicts v (SD 2.x).

    So all losses and samplers see epsilon. The U-Net itself and its files stay those of a v-predicting model: only the
    noise schedule is attached to it, as a buffer that is not saved.
    """
    if scheduler.config.prediction_type == "v_prediction":
        unet.register_buffer(V_SCHEDULE, scheduler.alphas_cumprod.float().to(unet.device), persistent=False)
    return unet
