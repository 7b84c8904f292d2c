"""Pure functions of arrays and tensors.

resize        canvases, and resizing as matrices           boxes        boxes of masks, suppression
crops         references cut out of their images          similarity   cosines with prototypes, ridge regression
pooling       mean features over masks                    overlaps     boxes of masks, what others cover of them
mask_changes  where full-size masks begin and end         merging      scores of overlapping candidates
run_lengths   the same as numbers, and as COCO's text     clustering   k-means
masks         sums over encoded masks                     ragged       rows of different lengths in flat arrays
candidates    from proposals to candidates                compiled     loops as machine code
"""
