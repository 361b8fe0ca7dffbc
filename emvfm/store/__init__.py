"""The embedding store: content key, layout, writer, reader, verification. Arrays and records, no torch."""
