"""What each stage of a run computes, from plain arguments; `ntt.run.inputs` draws references.

memory, candidates, matching (with the prototypes), evaluation: the stages ·
pictures, target_pictures: the stage `visualisation`
"""
