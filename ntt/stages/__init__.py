"""What each stage of a run computes, with plain arguments.

references, memory, prototypes, candidates, matching, evaluation: one stage each ·
pictures, target_pictures, feature_pictures: the stage `visualisation` · dealing: work dealt out over processes
"""
