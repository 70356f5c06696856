"""Everything that is particular to the Stalwart mail server; nothing outside speaks JMAP."""
