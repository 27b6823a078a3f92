//! Macros that make the code of a lane-wise instruction from an expression of its operands.
//!
//! Each expression is compiled twice on x86-64, for the baseline and for AVX2 with FMA: the loop over 32 lanes becomes vector instructions of the machine it runs on.

/// Code from a function `$body(&mut Warp, &Inst)`, whose operands are listed as places.
macro_rules! code {
    ($body:ident, [$($place:expr),* $(,)?]) => {{
        unsafe fn baseline(warp: &mut Warp, inst: &Inst) {
            unsafe { $body(warp, inst) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn vector(warp: &mut Warp, inst: &Inst) {
            unsafe { $body(warp, inst) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        use baseline as vector;
        Code { baseline, vector, low: None, erring: None, places: &[$($place),*] }
    }};
}

/// `op!(To; |a: A, b: B| result)`: a destination of type `To` from up to four sources of the types given; `; m` behind the sources names the modifiers of the opcode.
macro_rules! op {
    ($to:ty; |$($x:ident: $from:ty),+ $(; $m:ident)?| $result:expr) => {{
        #[inline(always)]
        unsafe fn body(warp: &mut Warp, inst: &Inst) {
            const OPERANDS: usize = 1 + [$(stringify!($x)),+].len();
            unsafe {
                $(let $m = Modifiers(inst.imm);)?
                let mut operand = if OPERANDS > 4 { inst.ext } else { inst.r.as_ptr() };
                let to = *operand;
                $(operand = operand.add(1); let $x = warp.p(*operand);)+
                let mut results = [<$to>::default(); 32];
                for (l, result) in results.iter_mut().enumerate() {
                    $(let $x = <$from as Lane>::at($x, l);)+
                    *result = $result;
                }
                warp.put::<$to>(to, &results);
            }
        }
        code!(body, [Place::To(<$to as Lane>::HOLD), $(Place::From(<$from as Lane>::HOLD)),+])
    }};
}

/// `compare!(T, value, |x, y| holds)`: a predicate from two sources of type `T`, which the function `value` makes numbers of.
macro_rules! compare {
    ($from:ty, $value:expr, |$x:ident, $y:ident| $holds:expr) => {{
        #[inline(always)]
        unsafe fn body(warp: &mut Warp, inst: &Inst) {
            unsafe {
                let (a, b) = (warp.p(inst.r[1]), warp.p(inst.r[2]));
                let mut holds = 0u32;
                for l in 0..32 {
                    let $x = $value(<$from as Lane>::at(a, l));
                    let $y = $value(<$from as Lane>::at(b, l));
                    holds |= (($holds) as u32) << l;
                }
                warp.put_pred(inst.r[0], holds);
            }
        }
        const FROM: Place = Place::From(<$from as Lane>::HOLD);
        code!(body, [Place::To(Hold::Predicate), FROM, FROM])
    }};
}

/// `select!(T)`: the first source where the predicate holds, the second elsewhere.
macro_rules! select {
    ($t:ty) => {{
        #[inline(always)]
        unsafe fn body(warp: &mut Warp, inst: &Inst) {
            unsafe {
                let (a, b) = (warp.p(inst.r[1]), warp.p(inst.r[2]));
                let holds = warp.pred(inst.r[3]);
                let mut results = [<$t>::default(); 32];
                for (l, result) in results.iter_mut().enumerate() {
                    let (x, y) = (<$t as Lane>::at(a, l), <$t as Lane>::at(b, l));
                    *result = if holds >> l & 1 != 0 { x } else { y };
                }
                warp.put::<$t>(inst.r[0], &results);
            }
        }
        const HOLD: Hold = <$t as Lane>::HOLD;
        code!(body, [Place::To(HOLD), Place::From(HOLD), Place::From(HOLD), Place::From(Hold::Predicate)])
    }};
}

/// `predicates!(|x, y| bits)`: a predicate from predicates, 32 lanes at once.
macro_rules! predicates {
    (|$($x:ident),+| $bits:expr) => {{
        #[inline(always)]
        unsafe fn body(warp: &mut Warp, inst: &Inst) {
            let mut operand = 0;
            $(operand += 1; let $x = warp.pred(inst.r[operand]);)+
            warp.put_pred(inst.r[0], $bits);
        }
        code!(body, [Place::To(Hold::Predicate), $(predicates!(@from $x)),+])
    }};
    (@from $x:ident) => { Place::From(Hold::Predicate) };
}

/// A table of forms: `"pattern" => code;` one a line.
macro_rules! forms {
    ($($pattern:expr => $code:expr;)*) => { &[$(Row { pattern: $pattern, code: $code }),*] };
}
