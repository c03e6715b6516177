fn main() { let _ = isle::Value::Null; }
