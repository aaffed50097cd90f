"""The images: found or fetched, held to their SHA-256, resized, and given out in batches."""
