"""Pure functions of arrays and tensors.

canvas        from an image to what the models see        boxes        boxes of masks, suppression
resize        resizing, as matrices too                   similarity   cosines with prototypes
pooling       mean features over masks                    overlaps     boxes of masks, what others cover of them
mask_changes  where full-size masks begin and end         merging      scores of overlapping candidates
run_lengths   the same as numbers, and as COCO's text     clustering   k-means
masks         sums over encoded masks                     diffusion    scores along a graph of candidates
candidates    from proposals to candidates                ragged       rows of different lengths in flat arrays
crops         references cut out of their images          compiled     loops as machine code
"""
