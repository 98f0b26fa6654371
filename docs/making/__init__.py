"""What the site is made with, beside Sphinx: each module is an extension of its own."""
