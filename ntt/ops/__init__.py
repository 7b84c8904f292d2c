"""Pure functions of arrays and tensors.

canvas        from an image to what the models see        boxes        boxes of masks, suppression
resize        resizing, as matrices too                   similarity   cosines with prototypes
pooling       mean features over masks                    overlaps     which part of a mask others cover
run_lengths   full-size masks as run lengths              merging      scores of overlapping candidates
masks         sums over encoded masks                     clustering   k-means
candidates    from proposals to candidates                diffusion    scores along a graph of candidates
crops         references cut out of their images
"""
