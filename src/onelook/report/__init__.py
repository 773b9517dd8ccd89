"""Reports of trainings and roadmaps: single HTML files that work offline."""
