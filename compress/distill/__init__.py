"""Knowledge distillation: what a student learns from a teacher, and who the teacher is."""
