"""Image encoders: options of the config group `backbone`.

base                 what a backbone is, and the base schema
vit                  what vision transformers share
dinov2               DINOv2, by timm's networks or by Meta's own code, and the layout of Meta's checkpoints
timm_vit             any vision transformer of timm
efficientnet_lite0   ImageNet weights that come with a package
"""
