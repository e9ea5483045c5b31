"""Members that are killed, lose power, or find their files damaged, and what they must still hold afterwards."""
