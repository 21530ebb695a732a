//! A page and routes for operators.
