"""How bytes reach a node: a local process, or fabric. Nothing else imports fabric."""
