"""What each stage of a run computes, with plain arguments; references are drawn in `ntt.run.inputs`.

memory, candidates, matching (with the prototypes), evaluation: the stages ·
pictures, target_pictures, feature_pictures: the stage `visualisation`
"""
