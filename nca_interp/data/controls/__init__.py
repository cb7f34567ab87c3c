"""Control sources: token sources whose ideal loss is known, one file each (docs/controls.md)."""
