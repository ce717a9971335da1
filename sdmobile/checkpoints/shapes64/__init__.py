"""The world of the bundled checkpoint `shapes-64`: its captions, its pictures and who checks them."""
