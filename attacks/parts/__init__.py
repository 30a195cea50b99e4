"""Transformations, constraints and searches for TextAttack; each module imports it.

So they are imported late, from a recipe, once ``attacks.textattack_import`` has made that safe.
"""
