"""A canvas: tokens by place, and pixels as a view of them."""
