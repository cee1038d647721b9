"""The ground floor: names, sizes, states, actions and errors. Pure: no I/O, no clock."""
