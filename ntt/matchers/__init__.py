"""Options of the config group `matcher`: they turn candidates into detections.

base            the schema every matcher derives from
scoring         everything matchers share: labels, suppression, merging, output
image_terms     what several matchings of one image share
reference_vectors  which vectors of the memory a matcher reads
prototype       the published matcher; kmeans, nearest, background, negative, graph_diffusion: alternatives to it
"""
