"""What each stage of a run computes, from plain arguments; `ntt.run.inputs` draws references.

memory, leave_one_out, candidates, matching (with the prototypes): the stages of these names ·
full_images: vectors of the memory that only some matchers use ·
evaluation: the stages `evaluation`, `thresholds` and `proposals` ·
pictures, target_pictures: the stage `visualisation`
"""
