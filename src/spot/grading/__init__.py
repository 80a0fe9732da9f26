"""Whether a response is right: mathematics, choices, instructions, boards, programs, the laptop world."""
