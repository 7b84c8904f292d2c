"""The configuration, and the only package that knows Hydra.

schema: one dataclass per config group · registry: what Hydra knows, schemas and folders ·
compose: checked settings from overrides · typed_text: text settings keep what was typed ·
explain: why an override is refused · command_line: the overrides of a command, checked before it starts ·
identity: what decides a result
"""
