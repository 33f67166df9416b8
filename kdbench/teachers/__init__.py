"""Who answers for a teacher: a live network, an ensemble, or stored answers."""
