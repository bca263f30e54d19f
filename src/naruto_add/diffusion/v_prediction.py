"""U-Nets that predict v instead of epsilon, as those of Stable Diffusion 2.x do."""

from typing import Any

from diffusers import UNet2DConditionModel

V_SCHEDULE = "v_schedule"
"""The buffer with alpha_bar of a U-Net that predicts v."""


def attach_v_schedule(unet: UNet2DConditionModel, scheduler: Any) -> UNet2DConditionModel:
    """Attach the noise schedule to a U-Net whose scheduler says that it predicts v (SD 2.x).

    With it, `sampling.noise_pred` returns epsilon, which all losses and samplers use. The same U-Net is returned. Its
    files stay those of a v-predicting model, because the schedule is a buffer that is not saved.
    """
    if scheduler.config.prediction_type == "v_prediction":
        unet.register_buffer(V_SCHEDULE, scheduler.alphas_cumprod.float().to(unet.device), persistent=False)
    return unet
