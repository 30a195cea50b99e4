"""What ``scripts/speed.py`` measures, one question a module; see there."""
