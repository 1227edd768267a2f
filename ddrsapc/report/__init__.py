"""What a person looks at: scans with their calcium in colours.

Needs the extra `ct`; without it this package can be imported, but nothing can be drawn.
"""
