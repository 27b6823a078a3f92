//! Macros that make the function of a lane-wise instruction from an expression of its operands.

macro_rules! op1 {
    ($d:ty, $a:ty, |$x:ident| $e:expr) => {{
        unsafe fn f(w: &mut Warp, i: &Inst) {
            unsafe {
                let pa = w.p(i.r[1]);
                let mut v = [<$d>::default(); 32];
                for l in 0..32 {
                    let $x = <$a as Lane>::at(pa, l);
                    v[l] = $e;
                }
                w.put::<$d>(i.r[0], &v);
            }
        }
        f as OpFn
    }};
}
macro_rules! op2 {
    ($d:ty, $a:ty, $b:ty, |$x:ident, $y:ident| $e:expr) => {{
        unsafe fn f(w: &mut Warp, i: &Inst) {
            unsafe {
                let pa = w.p(i.r[1]);
                let pb = w.p(i.r[2]);
                let mut v = [<$d>::default(); 32];
                for l in 0..32 {
                    let $x = <$a as Lane>::at(pa, l);
                    let $y = <$b as Lane>::at(pb, l);
                    v[l] = $e;
                }
                w.put::<$d>(i.r[0], &v);
            }
        }
        f as OpFn
    }};
}
macro_rules! op3 {
    ($d:ty, $a:ty, $b:ty, $c:ty, |$x:ident, $y:ident, $z:ident| $e:expr) => {{
        unsafe fn f(w: &mut Warp, i: &Inst) {
            unsafe {
                let pa = w.p(i.r[1]);
                let pb = w.p(i.r[2]);
                let pc = w.p(i.r[3]);
                let mut v = [<$d>::default(); 32];
                for l in 0..32 {
                    let $x = <$a as Lane>::at(pa, l);
                    let $y = <$b as Lane>::at(pb, l);
                    let $z = <$c as Lane>::at(pc, l);
                    v[l] = $e;
                }
                w.put::<$d>(i.r[0], &v);
            }
        }
        f as OpFn
    }};
}
macro_rules! cmp {
    ($t:ty, |$x:ident, $y:ident| $e:expr) => {{
        unsafe fn f(w: &mut Warp, i: &Inst) {
            unsafe {
                let pa = w.p(i.r[1]);
                let pb = w.p(i.r[2]);
                let mut m = 0u32;
                for l in 0..32 {
                    let $x = <$t as Lane>::at(pa, l);
                    let $y = <$t as Lane>::at(pb, l);
                    m |= (($e) as u32) << l;
                }
                w.put_pred(i.r[0], m);
            }
        }
        f as OpFn
    }};
}
macro_rules! sel {
    ($t:ty) => {{
        unsafe fn f(w: &mut Warp, i: &Inst) {
            unsafe {
                let pa = w.p(i.r[1]);
                let pb = w.p(i.r[2]);
                let m = w.pred(i.r[3]);
                let mut v = [<$t>::default(); 32];
                for l in 0..32 {
                    let x = <$t as Lane>::at(pa, l);
                    let y = <$t as Lane>::at(pb, l);
                    v[l] = if m >> l & 1 != 0 { x } else { y };
                }
                w.put::<$t>(i.r[0], &v);
            }
        }
        f as OpFn
    }};
}
