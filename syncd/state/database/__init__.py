"""The database file: opening, schema, migrations, the one writer, backups, and its lock."""
