"""Integrations. Each module needs the library it is named after, which an extra installs."""
