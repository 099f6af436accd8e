//! Opens the rooms, joins them, and closes them in the reverse order.
