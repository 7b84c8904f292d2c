"""Options of the config group `matcher`: they turn candidates into detections.

base                the schema every matcher derives from
reference_vectors   which vectors of the memory a matcher reads
scoring             what matchers have in common: labels, suppression, merging, output
image_terms         what several matchings of one image have in common
prototype           the published matcher; kmeans, nearest, background, negative, probe, graph_diffusion: alternatives
auto                leaves the choice to the references
"""
