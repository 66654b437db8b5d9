"""How a wish becomes true: plain functions over ports; the runner that journals, resumes and undoes them."""
