"""Networks, and what they run on.

device       devices and precisions
compiling    networks recorded and replayed, or compiled
weights      official checkpoints: registry, download, reading
batching     batches that shrink when memory runs out
splitting    a GPU kernel that splits float32 numbers for TensorFloat-32
box_masks    masks for annotations that have only boxes
backbones    image encoders
segmenters   mask proposers
"""
