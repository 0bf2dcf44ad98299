"""Feature networks, and the one pass over an image set that feeds every metric.

`NETWORKS` holds what is known of each network before it is loaded; `features.load` loads one. To add a network: a file
with its class, an entry here, and its weights in the manifest. Importing this loads no network, and no PyTorch.
"""

from __future__ import annotations

from dit_eval.features.network import Backend, Network

INCEPTION = Network(
    name="inception",
    label="Inception",
    about="ADM's Inception",
    pool_dim=2048,
    spatial_dim=2023,
    num_classes=1008,
    protocol="ADM: the Inception graph of 2015-12-05; images resized to 299 px as TensorFlow 1 does it",
    backends=(
        Backend(
            name="torch",
            loaded_from="dit_eval.features.inception:TorchInception",
            precisions=("fp32", "tf32", "bf16", "fp16"),
            weights="inception",
        ),
        Backend(
            name="tensorflow",
            loaded_from="dit_eval.features.tensorflow:TensorflowInception",
            weights="inception-graph",
            needs="tensorflow",
            extra="tensorflow",
        ),
    ),
)
DINOV2 = Network(
    name="dinov2",
    label="DINOv2",
    about="DINOv2 (FD-DINOv2)",
    pool_dim=1024,
    protocol="dgm-eval: DINOv2 ViT-L/14, class token; images resized to 224 px by Pillow's bicubic",
    backends=(
        Backend(
            name="torch",
            loaded_from="dit_eval.features.dinov2:DinoV2",
            weights="dinov2",
            needs="timm",
            extra="witnesses",
        ),
    ),
)
CLIP = Network(
    name="clip",
    label="CLIP",
    about="CLIP (CMMD)",
    pool_dim=768,
    protocol="google-research/cmmd: CLIP ViT-L/14-336, embedding of length 1; images cut to their middle, then resized "
    "to 336 px by Pillow's bicubic",
    backends=(
        Backend(
            name="torch",
            loaded_from="dit_eval.features.clip:ClipVision",
            weights="clip",
            needs="timm",
            extra="witnesses",
        ),
    ),
)
DIGITS = Network(
    name="digits",
    label="digits",
    about="the embedded digits CNN",
    pool_dim=64,
    spatial_dim=112,
    num_classes=10,
    protocol="dit-eval's own CNN for digits of 16 px, whose numbers compare with each other only",
    backends=(Backend(name="torch", loaded_from="dit_eval.features.digits:DigitsExtractor"),),
)
NETWORKS = (INCEPTION, DINOV2, CLIP, DIGITS)
