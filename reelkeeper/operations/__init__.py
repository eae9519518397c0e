"""Safe units of work: the only code that changes a customer's data, each killable anywhere and safe to repeat."""
